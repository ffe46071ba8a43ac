"""What type checkers see of the package: the names that are imported when first used."""

from hwbench.api import bench as bench
from hwbench.api import compare as compare
from hwbench.api import load_recipe as load_recipe
from hwbench.api import load_target as load_target
from hwbench.api import measure as measure
from hwbench.api import pick as pick
from hwbench.api import plan as plan
from hwbench.api import predict as predict
from hwbench.api import read_study as read_study
from hwbench.api.results import StudyResults as StudyResults
from hwbench.errors import HwbenchError as HwbenchError
from hwbench.errors import StageError as StageError
from hwbench.errors import TargetError as TargetError
from hwbench.errors import UserError as UserError
from hwbench.pipeline.session import Progress as Progress
from hwbench.pipeline.session import Workspace as Workspace
from hwbench.records import Recipe as Recipe
from hwbench.records import TargetProfile as TargetProfile

__version__: str
__all__: list[str]
