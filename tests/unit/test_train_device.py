"""Training on a GPU as far as a CPU can show it: keys, refusals, errors, settings, waiting."""

import copy
import dataclasses
import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from hwbench import compress, config, cuda, files
from hwbench.compress import device, training
from hwbench.errors import StageError, UserError
from hwbench.executor import jobs, process
from hwbench.protocols import Workload
from hwbench.records import (
    Candidate,
    CompressionSpec,
    ExportSpec,
    PluginSpec,
    TrainSpec,
    WorkloadSpec,
    from_json,
    to_json,
)
from hwbench.registry import PRUNERS, WORKLOADS
from hwbench.report import prose
from hwbench.report.page import page
from hwbench.store import Cache
from hwbench.workloads.python import PythonWorkload
from tests import pretend, pretended_trainings, synthetic
from tests.contracts.test_workloads import EXAMPLE
from tests.unit.test_report import judged

H100 = "NVIDIA H100 80GB HBM3, CUDA 12.8, cuDNN 91002"
A100 = "NVIDIA A100-SXM4-40GB, CUDA 12.8, cuDNN 91002"
TOY = WorkloadSpec("toy")
TRAIN = TrainSpec(epochs=1, lr=0.1)
ON_H100 = dataclasses.replace(TRAIN, device="cuda", gpu=H100)
SPEC = CompressionSpec(TOY, TRAIN, "unstructured", sparsity=0.5, recovery=TRAIN)


@pytest.fixture(scope="module")
def toy() -> Workload:
    made: Workload = WORKLOADS.create("toy")
    return made


def _recipe(tmp_path: Path, **tables: Any) -> str:
    data = {
        "version": 1,
        "workload": {"kind": "toy"},
        "search": {"methods": [{"pattern": "unstructured"}]},
        "backends": {"onnxruntime": {}},
        **tables,
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(data))
    return str(path)


# --------------------------------------------------------------------------------------------
# keys


def test_a_training_on_the_cpu_has_the_keys_it_always_had() -> None:
    """Of hwbench before trainings had a device: what was cached and pinned stays true."""
    assert CompressionSpec(TOY, TrainSpec(epochs=2, lr=0.1)).key == "50759e68168f65d3"
    assert SPEC.key == "394b0e6b5fb25e4f"
    assert Candidate(ExportSpec(SPEC), PluginSpec("tvm"), "rpi4").key == "314c20b9a97a73a5"
    assert set(to_json(TRAIN)) == {"epochs", "lr", "batch", "weight_decay", "warmup"}


def test_another_device_another_gpu_and_other_libraries_are_other_trainings() -> None:
    trains = [
        TRAIN,
        ON_H100,
        dataclasses.replace(ON_H100, gpu=A100),
        dataclasses.replace(ON_H100, gpu=H100.replace("12.8", "13.0")),
    ]
    specs = [dataclasses.replace(SPEC, train=t) for t in trains]
    specs += [dataclasses.replace(SPEC, recovery=t) for t in trains[1:]]
    assert len({spec.key for spec in specs}) == len(specs)
    # The dense model depends on where it was trained, not on where others recover from it.
    assert len({spec.dense.key for spec in specs}) == len(trains)


def test_what_was_trained_on_a_gpu_survives_json_and_what_was_written_before_is_read() -> None:
    spec = dataclasses.replace(SPEC, train=ON_H100)
    assert from_json(CompressionSpec, json.loads(json.dumps(to_json(spec)))) == spec
    assert from_json(TrainSpec, {"epochs": 3, "lr": 0.05}) == TrainSpec(epochs=3)


def test_weights_are_made_where_their_last_training_is() -> None:
    assert SPEC.training is SPEC.recovery
    assert dataclasses.replace(SPEC, recovery=None).training is TRAIN
    assert SPEC.dense.training is TRAIN
    there = dataclasses.replace(SPEC, train=ON_H100)
    assert there.training.device == "cpu"
    for schedule in ("lottery", "lr_rewinding", "scratch"):
        again = dataclasses.replace(there, schedule=schedule)
        assert again.training.gpu == H100
    assert there.whole_training.gpu == H100


# --------------------------------------------------------------------------------------------
# recipes


@pytest.mark.parametrize("table", ["train", "recover"])
def test_a_recipe_for_a_gpu_is_refused_where_there_is_none(
    table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "_told", lambda: ("", "torch was built without CUDA"))
    with pytest.raises(UserError, match="no GPU to train on: torch was built") as caught:
        config.load_recipe(_recipe(tmp_path, **{table: {"device": "cuda"}}))
    assert caught.value.where.endswith(f"study.yaml: {table}.device")
    assert "NVIDIA GPU" in caught.value.expected
    assert "device: cpu" in caught.value.mend


def test_a_recipe_for_a_gpu_names_the_one_that_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "_told", lambda: (H100, ""))
    recipe = config.load_recipe(_recipe(tmp_path, train={"epochs": 2, "device": "cuda"}))
    assert (recipe.train.device, recipe.train.gpu) == ("cuda", H100)
    assert (recipe.recovery.device, recipe.recovery.gpu) == ("cpu", "")
    assert recipe.recovery == TrainSpec(epochs=3, lr=0.03)


def test_an_unknown_device_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.device"):
        config.load_recipe(_recipe(tmp_path, train={"device": "gpu"}))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_child_says_why_there_is_no_gpu() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hwbench.cuda"], capture_output=True, text=True, check=True
    )
    answer = json.loads(done.stdout)
    assert not answer["name"]
    assert answer["why"]
    with pytest.raises(UserError, match="no GPU to train on"):
        cuda.here()


@pytest.mark.parametrize(
    ("printed", "why"),
    [("", "code 3: the end"), ("{}", "code 3: the end"), ("a word", "code 3: the end")],
)
def test_a_child_that_dies_is_no_gpu(
    printed: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = f"import sys; print({printed!r}); print('the end', file=sys.stderr); sys.exit(3)"
    ran = subprocess.run

    def run(_command: list[str], **how: Any) -> Any:
        return ran([sys.executable, "-c", code], **how)

    monkeypatch.setattr(subprocess, "run", run)
    name, said = cuda._told.__wrapped__()
    assert not name
    assert why in said


# --------------------------------------------------------------------------------------------
# in the process that trains


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_training_for_a_gpu_never_falls_back_to_the_cpu(toy: Workload, tmp_path: Path) -> None:
    spec = CompressionSpec(TOY, dataclasses.replace(TRAIN, device="cuda"))
    with pytest.raises(UserError, match="no GPU to train on"):
        compress.compress(spec, toy, None, tmp_path, lambda share: None)
    assert not list(tmp_path.iterdir())


def test_another_gpu_than_the_planned_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "here", lambda: A100)
    with pytest.raises(UserError, match=f"trained on {H100}, and here is {A100}") as caught:
        device._as_planned(ON_H100)
    assert caught.value.mend
    assert device._as_planned(dataclasses.replace(ON_H100, gpu="")) == A100


def _settings() -> tuple[object, ...]:
    backends: Any = torch.backends
    cudnn = backends.cudnn
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        cudnn.deterministic,
        cudnn.benchmark,
        backends.cuda.matmul.fp32_precision,
        cudnn.conv.fp32_precision,
        cudnn.rnn.fp32_precision,
        backends.cuda.matmul.allow_tf32,
        cudnn.allow_tf32,
        backends.cuda.flash_sdp_enabled(),
        backends.cuda.mem_efficient_sdp_enabled(),
        backends.cuda.cudnn_sdp_enabled(),
    )


def test_torch_repeats_itself_inside_and_is_as_before_afterwards() -> None:
    before = _settings()
    with device._deterministic():
        inside = _settings()
    assert inside == (True, True, True, False, "ieee", "ieee", "ieee", *[False] * 5)
    assert _settings() == before


def test_tf32_that_somebody_chose_is_put_back() -> None:
    before = device._products(("tf32", "tf32", "tf32"))
    try:
        chosen = _settings()
        with device._deterministic():
            assert _settings()[4:7] == ("ieee", "ieee", "ieee")
        assert _settings() == chosen
    finally:
        device._products(before)


NOT_DETERMINISTIC = (
    "adaptive_avg_pool2d_backward_cuda does not have a deterministic implementation, but you set "
    "'torch.use_deterministic_algorithms(True, warn_only=True)'. You can file an issue at ...",
    "Memory Efficient attention defaults to a non-deterministic algorithm. To explicitly enable "
    "determinism call torch.use_deterministic_algorithms(True, warn_only=False).",
    "Deterministic behavior was enabled with either `torch.use_deterministic_algorithms(True)` or "
    "`at::Context::setDeterministicAlgorithms(true)`, but this operation is not deterministic "
    "because it uses CuBLAS and you have CUDA >= 10.2. To enable ...",
)


def test_operators_that_torch_calls_not_deterministic_are_named_once_and_others_pass() -> None:
    heard: dict[str, None] = {}
    with warnings.catch_warnings(record=True) as others:
        warnings.simplefilter("always")
        with device.listening(heard):
            for _ in range(3):
                for message in NOT_DETERMINISTIC:
                    warnings.warn(message, UserWarning, stacklevel=1)
            warnings.warn("something else", UserWarning, stacklevel=1)
    assert list(heard) == [
        "adaptive_avg_pool2d_backward_cuda",
        "Memory Efficient attention",
        "CuBLAS",
    ]
    assert [str(other.message) for other in others] == ["something else"]


def test_every_training_hears_of_them_anew() -> None:
    for _ in range(2):
        heard: dict[str, None] = {}
        with device.listening(heard):
            warnings.warn(NOT_DETERMINISTIC[0], UserWarning, stacklevel=1)
        assert heard


def test_notes_say_where_and_what_may_differ() -> None:
    assert device.Where("cpu").notes == ()
    where = device.Where("cuda", H100, {"a_cuda": None, "b_cuda": None})
    trained, differs = where.notes
    assert trained == f"trained on {H100}, torch {torch.__version__}"
    assert "not deterministic: a_cuda, b_cuda" in differs


def test_nothing_is_set_for_a_training_on_the_cpu() -> None:
    before = _settings()
    with device.ready(TRAIN) as where:
        assert _settings() == before
        assert (where.device, where.notes) == ("cpu", ())


MIXED = (
    "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and "
    "cpu! (when checking argument for argument target in method wrapper_CUDA_nll_loss_forward)",
    "Expected all tensors to be on the same device, but got target is on cpu, different from other "
    "tensors on cuda:0 (when checking argument in method wrapper_CUDA_nll_loss_forward)",
    "indices should be either on cpu or on the same device as the indexed tensor (cpu)",
    "Input type (torch.cuda.FloatTensor) and weight type (torch.FloatTensor) should be the same",
    "Expected a 'cuda' device type for generator but found 'cpu'",
)


@pytest.mark.parametrize("message", MIXED)
def test_a_train_step_that_mixes_devices_is_told_where_and_how_to_mend(
    message: str, tmp_path: Path
) -> None:
    line = "return nn.functional.cross_entropy(model(inputs), labels)"
    text = EXAMPLE.replace(line, f"raise RuntimeError({message!r})")
    assert text != EXAMPLE
    path = tmp_path / "task.py"
    path.write_text(text)
    workload = WORKLOADS.create("python", {"file": path})
    assert isinstance(workload, PythonWorkload)
    with pytest.raises(StageError, match="on the CPU and on the GPU meet") as caught:
        _fit_on_a_gpu(workload)
    number = 1 + next(n for n, row in enumerate(text.splitlines()) if "raise Runtime" in row)
    assert caught.value.where.endswith(f"task.py:{number}")
    assert "labels.device" in caught.value.mend
    assert "register_buffer" in caught.value.mend


def _fit_on_a_gpu(workload: Workload) -> None:
    with device.in_words(ON_H100):
        training.fit(
            workload.model(), workload, TRAIN, seed=0, masks={}, progress=lambda share: None
        )


class Broken:
    """The toy, whose loss raises."""

    metric = "top1"

    def __init__(self, toy: Workload, error: Exception) -> None:
        self.model, self.data, self.score = toy.model, toy.data, toy.score
        self._error = error

    def train_step(self, model: object, inputs: object, labels: object) -> torch.Tensor:
        raise self._error


def test_a_plug_ins_line_is_named_too(toy: Workload) -> None:
    with pytest.raises(StageError, match="meet") as caught:
        _fit_on_a_gpu(Broken(toy, RuntimeError(MIXED[0])))
    assert Path(caught.value.where.rpartition(":")[0]) == Path(__file__)


def test_numpy_of_a_tensor_on_the_gpu_is_told_to_come_home(toy: Workload) -> None:
    message = (
        "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor "
        "to host memory first."
    )
    with pytest.raises(StageError, match="meet") as caught:
        _fit_on_a_gpu(Broken(toy, TypeError(message)))
    assert ".cpu() before .numpy()" in caught.value.mend


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.11 "
            "GiB of which 17.56 GiB is free. Including non-PyTorch memory, this process has 61 GiB"
        ),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_a_full_gpu_costs_the_candidate_and_says_what_to_take(
    toy: Workload, error: Exception
) -> None:
    with pytest.raises(StageError, match="the GPU's memory is full: CUDA") as caught:
        _fit_on_a_gpu(Broken(toy, error))
    assert "smaller train.batch" in caught.value.mend
    assert "64" in caught.value.expected
    assert "Including" not in caught.value.what


def test_frames_give_back_what_filled_the_gpu(toy: Workload) -> None:
    """The error outlives the training; what its frames hold would fill the next one's memory."""
    model = toy.model()
    error = torch.OutOfMemoryError("CUDA out of memory.")
    with pytest.raises(StageError) as caught, device.in_words(ON_H100):
        training.fit(
            model, Broken(toy, error), TRAIN, seed=0, masks={}, progress=lambda share: None
        )
    frames, chain = [], caught.value.__cause__
    while chain is not None:
        trace = chain.__traceback__
        while trace is not None:
            frames.append(trace.tb_frame)
            trace = trace.tb_next
        chain = chain.__cause__
    (own,) = [frame for frame in frames if frame.f_code is training.fit.__code__]
    assert not own.f_locals


def test_what_cuda_cannot_recover_from_ends_the_process(toy: Workload) -> None:
    dead = RuntimeError("CUDA error: device-side assert triggered")
    with pytest.raises(RuntimeError, match="device-side assert"):
        _fit_on_a_gpu(Broken(toy, dead))
    wrapped = StageError("compress", "Mine.train_step raised RuntimeError: CUDA error")
    wrapped.__cause__ = dead
    with pytest.raises(RuntimeError, match="device-side assert"):
        _fit_on_a_gpu(Broken(toy, wrapped))


def test_other_errors_stay_what_they_are(toy: Workload) -> None:
    with pytest.raises(StageError, match="not a number"):
        _fit_on_a_gpu(Broken(toy, StageError("compress", "the loss is not a number")))
    for other in (
        "mat1 and mat2 shapes cannot be multiplied",
        "Input type (torch.cuda.DoubleTensor) and weight type (torch.cuda.FloatTensor) should be "
        "the same",
    ):
        with pytest.raises(RuntimeError) as caught:
            _fit_on_a_gpu(Broken(toy, RuntimeError(other)))
        assert str(caught.value) == other


# --------------------------------------------------------------------------------------------
# batches, streams, turns


def test_batches_are_the_samples_asked_for() -> None:
    data = torch.arange(40.0).reshape(10, 4), torch.arange(10)
    samples = device.Samples(data, torch.device("cpu"))
    chosen = torch.tensor([3, 0, 9])
    inputs, labels = samples.batch(chosen)
    assert len(samples) == 10
    assert torch.equal(inputs, data[0][chosen])
    assert labels.tolist() == [3, 0, 9]


@pytest.mark.parametrize(("free", "copied"), [(1 << 20, False), (1 << 10, True)])
def test_a_split_that_fills_the_gpu_is_copied_batch_by_batch(
    free: int, copied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class There:
        """A tensor that notes where it is sent; the machine has no GPU to send it to."""

        nbytes = 400

        def __init__(self, road: tuple[object, ...] = ()) -> None:
            self.road = road

        def to(self, where: torch.device, **how: object) -> "There":
            return There((*self.road, where.type, *how))

        def pin_memory(self) -> "There":
            return There((*self.road, "pinned"))

        def __getitem__(self, chosen: object) -> "There":
            return There((*self.road, "chosen"))

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda where: (free, free))
    data: Any = (There(), There())
    chosen: Any = There()
    for part in device.Samples(data, torch.device("cuda")).batch(chosen):
        road = ("chosen", "pinned", "cuda", "non_blocking") if copied else ("cuda", "chosen")
        assert getattr(part, "road") == road  # noqa: B009  (mypy takes it for a tensor)


def test_pruners_see_the_cpu_alone_and_never_the_model_itself(toy: Workload) -> None:
    model = toy.model()
    before = copy.deepcopy(model.state_dict())
    pruner = PRUNERS.create("unstructured")
    made = device.prune(pruner, model, toy.data("validation")[0][:1], SPEC, 0.5, {})
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert device.of(made.model) == torch.device("cpu")
    assert device.of(torch.nn.Identity()) == torch.device("cpu")


def test_a_process_waits_for_the_gpu_and_says_that_it_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_TICK", 0.01)
    code = (
        "import sys; from pathlib import Path; from hwbench import files\n"
        "with files.locked(Path(sys.argv[1]), wait=False): print('held', flush=True); input()"
    )
    cache, there = Cache(tmp_path, "s"), dataclasses.replace(SPEC, recovery=ON_H100)
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "gpu.lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        shares: list[float] = []

        def heard(share: float) -> None:
            shares.append(share)
            if len(shares) == 3:
                holder.kill()

        with process._turn(cache, jobs.Compress(SPEC), heard):
            assert not shares  # the CPU has no queue
        with process._turn(cache, jobs.Compress(there), heard):
            assert shares[:3] == [0.0] * 3


# --------------------------------------------------------------------------------------------
# reports


def test_the_report_says_where_models_were_trained() -> None:
    study = judged(synthetic.results())
    assert prose.trained(study) == ""
    there = dataclasses.replace(
        study,
        recipe=dataclasses.replace(study.recipe, train=ON_H100),
        versions={"torch": "2.13.0"},
    )
    said = prose.trained(there)
    assert said == f"Models were trained on {H100}, recovered on the CPU, by torch 2.13.0."
    assert said in prose.decision_markdown(there)
    assert said in page(there)


# --------------------------------------------------------------------------------------------
# on another device


@pytest.fixture(scope="module")
def pretended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("pretended")
    command = [sys.executable, "-m", "tests.pretended_trainings", str(folder)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2]
    )
    assert not done.returncode, done.stderr
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", ["dense", *pretended_trainings.TRAININGS])
def test_every_training_runs_wholly_on_its_device_and_comes_out_alike(
    name: str, pretended: dict[str, dict[str, Any]]
) -> None:
    """On a device that computes as the CPU does, and refuses tensors that are not there."""
    here, there = pretended[name]["cpu"], pretended[name][pretend.NAME]
    assert there["weights"] == here["weights"]
    assert there["scores"] == here["scores"]
    assert there["notes"] == here["notes"]
    steps = name != "statistics"  # nothing is trained
    assert (here["seen"], there["seen"]) == ((["cpu"], [pretend.NAME]) if steps else ([], []))


def test_a_step_that_truly_mixes_devices_is_told(pretended: dict[str, dict[str, Any]]) -> None:
    said = pretended["mixed"]
    assert "on the CPU and on the GPU meet" in said["what"]
    assert "labels.device" in said["mend"]
