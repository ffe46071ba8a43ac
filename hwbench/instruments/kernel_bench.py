"""Our kernels beside ONNX Runtime on whole networks: ``make bench-kernels``.

Every ratio is paired: the two run in turns in one process. *Cold* is one call each, as in a
stream where something else runs in between; *warm* is the last of several calls in a row. With
one thread the seconds are those that the thread really ran: whatever else is busy on the machine
then spoils caches, but does not count as ours or theirs.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx.version_converter
from numpy.typing import NDArray
from onnx import numpy_helper

from hwbench.backends import SPARSE
from hwbench.instruments import kernel_peer
from hwbench.kernels import build, choose, graph, roofs
from hwbench.protocols import Backend, Session
from hwbench.records import (
    Candidate,
    Counts,
    Layer,
    LayerNote,
    OnnxFile,
    OnnxModel,
    TargetProfile,
)
from hwbench.registry import BACKENDS

if TYPE_CHECKING:
    from torch import nn

WARM = 4
NETWORKS = ["resnet18", "mobilenet_v1", "resnet50", "mobilenet_v2", "mlp", "vit_tiny"]


@dataclass(frozen=True, slots=True)
class Line:
    """One network at one sparsity: medians in seconds, ratios of ORT's time over ours."""

    network: str
    pattern: str
    ort: float
    ours: float
    cold: float
    spread: tuple[float, float]
    warm: float
    int8: float | None
    error: float
    compiled: float
    """Seconds to choose and compile the kernels."""
    peers: tuple[float | None, ...] = ()
    """Ratios of ORT's time over the peers', None for one that cannot run the model."""


def prune(model: onnx.ModelProto, sparsity: float, rows: int = 1) -> onnx.ModelProto:
    """Return a copy with so many zeros in every layer but depthwise ones and the stem.

    Blocks of `rows` outputs live or die together, by the sum of their magnitudes.
    """
    pruned = onnx.ModelProto()
    pruned.CopyFrom(model)
    operators = {n.input[1]: n.op_type for n in pruned.graph.node if len(n.input) > 1}
    turned = {
        n.input[1]
        for n in pruned.graph.node
        if n.op_type == "MatMul"
        or (n.op_type == "Gemm" and not any(a.name == "transB" and a.i for a in n.attribute))
    }
    for initializer in pruned.graph.initializer:
        if operators.get(initializer.name) not in ("Conv", "Gemm", "MatMul"):
            continue
        array = numpy_helper.to_array(initializer)
        if array.ndim < 2 or (array.ndim == 4 and array.shape[1] <= 3):
            continue
        zeroed = _zeroed(array.T if initializer.name in turned else array, sparsity, rows)
        zeroed = zeroed.T if initializer.name in turned else zeroed
        initializer.CopyFrom(
            numpy_helper.from_array(np.ascontiguousarray(zeroed), initializer.name)
        )
    return pruned


def _zeroed(array: NDArray[Any], sparsity: float, rows: int) -> NDArray[Any]:
    flat = array.reshape(len(array), -1).copy()
    if len(flat) % rows:
        return array
    blocks = flat.reshape(len(flat) // rows, rows, -1)
    size = np.abs(blocks).sum(1)
    gone = int(size.size * sparsity)
    if gone:
        limit = np.partition(size.reshape(-1), gone - 1)[gone - 1]
        blocks *= (size > limit)[:, None, :]
    zeroed: NDArray[Any] = blocks.reshape(array.shape)
    return zeroed


def exported(name: str) -> onnx.ModelProto:
    """Return a network of the zoo as ONNX with a free batch."""
    from hwbench.workloads.zoo import imagenet

    return traced(*imagenet.network(name))


def traced(model: nn.Module, shape: tuple[int, ...]) -> onnx.ModelProto:
    """Return a PyTorch model as ONNX with a free batch, the exporter's chatter kept off."""
    import torch

    logging.disable(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model,
            (torch.zeros(2, *shape),),
            input_names=["x"],
            output_names=["y"],
            opset_version=20,
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    logging.disable(logging.NOTSET)
    assert program is not None
    document: onnx.ModelProto = program.model_proto
    return document


def session(model: bytes | str, threads: int) -> Any:
    """Return an ONNX Runtime session that does not spin."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def quantized(path: Path, x: NDArray[np.float32]) -> Path:
    """Return the QDQ model (u8 activations, s8 weights per channel), calibrated on `x`."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Once(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = [{"x": x}]

        def get_next(self) -> dict[str, Any] | None:
            return self.left.pop() if self.left else None

    ready, written = path.with_suffix(".pre.onnx"), path.with_suffix(".int8.onnx")
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    quant_pre_process(str(path), str(ready))
    quantize_static(
        str(ready), str(written), Once(), per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    logging.disable(before)
    return written


class Peer:
    """Another runtime with one model, in a process of its own environment (see `peer`)."""

    def __init__(self, named: str, path: Path, x: NDArray[np.float32], threads: int) -> None:
        """Start the peer that ``NAME=PYTHON`` names; raises ChildProcessError if it refuses."""
        self.name, _, python = named.partition("=")
        given = path.with_suffix(".npy")
        np.save(given, x)
        log = path.with_suffix(".log")  # a file, since nobody empties a pipe meanwhile
        with log.open("w") as stderr:
            self.child = subprocess.Popen(
                [python, kernel_peer.__file__, self.name, str(_for_peers(path)), str(given),
                 str(threads)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True,
            )  # fmt: skip
        assert self.child.stdout is not None
        self.version = self.child.stdout.readline().strip()
        if not self.version:
            self.close()
            raise ChildProcessError(log.read_text().strip().rpartition("\n")[2][:200])

    def __call__(self) -> float:
        """Return the seconds of one call, by the peer's own clock."""
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self.child.stdin.write("\n")
        self.child.stdin.flush()
        return float(self.child.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self.child.communicate()


def _for_peers(path: Path) -> Path:
    """Return the model as older readers want it: operators of opset 18 where they exist there."""
    model = onnx.load(str(path))
    with contextlib.suppress(RuntimeError):
        model = onnx.version_converter.convert_version(model, 18)
    model.ir_version = 8
    written = path.with_suffix(".peer.onnx")
    onnx.save(model, str(written))
    return written


def race(
    calls: Sequence[Callable[[], Any]], rounds: int, warm: int, threads: int = 1
) -> NDArray[np.float64]:
    """Return seconds (rounds, calls): the last of `warm` calls in a row, in turns."""
    taken = np.zeros((rounds + 3, len(calls)))
    for turn in range(rounds + 3):
        for index, call in enumerate(calls):
            for _ in range(warm - 1):
                call()
            start = choose.clock(threads)
            reported = call()
            elapsed = choose.clock(threads) - start
            taken[turn, index] = reported if isinstance(call, Peer) else elapsed
    return taken[3:]


def compare(
    name: str,
    pattern: str,
    model: onnx.ModelProto,
    x: NDArray[np.float32],
    threads: int,
    rounds: int,
    *,
    int8: bool,
    why: bool,
    peers: Sequence[str] = (),
) -> Line:
    """Return one line of the table; with `why`, print what each layer became as well."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        path = Path(folder) / "m.onnx"
        onnx.save(model, str(path))
        since = time.perf_counter()
        module, notes = compiled(path, x, threads)
        seconds = time.perf_counter() - since
        runtime = session(str(path), threads)
        calls: list[Callable[[], Any]] = [lambda: runtime.run(None, {"x": x}), module.invoke]
        if int8:
            small = session(str(quantized(path, x)), threads)
            calls.append(lambda: small.run(None, {"x": x}))
        others = [_started(named, path, x, threads, stack) for named in peers]
        calls += [other for other in others if other is not None]
        expected = runtime.run(None, {"x": x})[0]
        module.invoke()
        error = float(np.abs(module.outputs()[0] - expected).max() / np.abs(expected).max())
        cold, warm = (
            race(calls, rounds, 1, threads),
            race(calls, max(rounds // 2, 5), WARM, threads),
        )
    for note in notes if why else ():
        _say(f"    {note.layer}: {note.why}")
    ratios = cold[:, 0] / cold[:, 1]
    middle = np.median(cold, axis=0)
    beside = iter(np.median(cold[:, :1] / cold[:, 2 + int8 :], axis=0).tolist())
    low, high = np.percentile(ratios, [10, 90])
    return Line(
        name,
        pattern,
        middle[0],
        middle[1],
        float(np.median(ratios)),
        (low, high),
        float(np.median(warm[:, 0] / warm[:, 1])),
        float(np.median(cold[:, 0] / cold[:, 2])) if int8 else None,
        error,
        seconds,
        tuple(None if other is None else next(beside) for other in others),
    )


def _started(
    named: str, path: Path, x: NDArray[np.float32], threads: int, stack: contextlib.ExitStack
) -> Peer | None:
    try:
        peer = Peer(named, path, x, threads)
    except (ChildProcessError, OSError) as error:
        _say(f"    {named}: {error}")
        return None
    stack.callback(peer.close)
    return peer


def compiled(
    path: Path, x: NDArray[np.float32], threads: int, backend: Backend | None = None
) -> tuple[Session, tuple[LayerNote, ...]]:
    """Return a session of a backend (``tvm_sparse``), ready to be called on `x`, and its notes."""
    backend = backend or BACKENDS.create(SPARSE.kind)
    assert backend is not None
    layers = tuple(_layer(s) for s in graph.read(path, len(x)).steps if s.weights is not None)
    shape = x.shape[1:]
    file = OnnxFile(path, "", "x", shape, "float32", ("y",), 20)
    model = OnnxModel.of_file(file, Counts(layers, 0, 0, 0, 0))
    of = Candidate(model.spec, SPARSE, "local-cpu", len(x), threads)
    here = TargetProfile(
        "local-cpu", "", "", "host", threads, 0, (), None, "", threads, (), (), 1, None, (), None
    )
    entry = backend.compile(model, of, here, path.parent)
    ready = backend.load(path.parent / entry, threads)
    ready.set_inputs([x])
    return ready, backend.eligible(model)


def _layer(step: graph.Step) -> Layer:
    weights = step.weights
    assert weights is not None
    return Layer(
        step.layer,
        step.node.op_type,
        weights.shape,
        step.groups,
        weights.size,
        int(np.count_nonzero(weights)),
        0,
    )


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


HEAD = (
    "| network | pattern | ORT fp32 | ours | × cold (10–90 %) | × warm | ORT int8 × | error | "
    "compiled |"
)


def _line(line: Line) -> str:
    int8 = f"{line.int8:.2f}" if line.int8 is not None else "–"
    beside = "".join(" – |" if ratio is None else f" {ratio:.2f} |" for ratio in line.peers)
    return (
        f"| {line.network} | {line.pattern} | {line.ort * 1e3:.2f} ms | {line.ours * 1e3:.2f} ms | "
        f"**{line.cold:.2f}** ({line.spread[0]:.2f}–{line.spread[1]:.2f}) | {line.warm:.2f} | "
        f"{int8} | {line.error:.0e} | {line.compiled:.0f} s |{beside}"
    )


LAYERS = {
    "1x1 128→128 @28": (128, 128, 1, 28),
    "1x1 256→256 @14": (256, 256, 1, 14),
    "1x1 512→512 @14": (512, 512, 1, 14),
    "1x1 1024→1024 @7": (1024, 1024, 1, 7),
    "3x3 64→64 @56": (64, 64, 3, 56),
    "3x3 128→128 @28": (128, 128, 3, 28),
    "3x3 256→256 @14": (256, 256, 3, 14),
    "3x3 512→512 @7": (512, 512, 3, 7),
    "Linear 768→3072, 128 tokens": (768, 3072, 0, 128),
    "Linear 192→768, 196 tokens": (192, 768, 0, 196),
}
"""Single layers, as (inputs, outputs, window or 0 for a linear layer, size or tokens)."""
CROSSINGS = (30, 40, 50, 60, 70)
"""Per cent of zeros; the middle one is tried first, and from there towards the crossing."""


def layer(name: str, deep: int = 4) -> tuple[onnx.ModelProto, tuple[int, ...]]:
    """Return `deep` copies of a layer in a row, ReLUs between them, and the input's shape.

    A row of them: the change of layout at both ends must not decide. Linear layers go there and
    back, so that any two shapes chain.
    """
    from torch import nn

    inputs, outputs, window, size = LAYERS[name]
    parts: list[nn.Module] = []
    for number in range(deep):
        one, two = (outputs, inputs) if number % 2 and not window else (inputs, outputs)
        part = nn.Conv2d(one, two, window, padding=window // 2) if window else nn.Linear(one, two)
        parts += [part, nn.ReLU()]
    shape = (inputs, size, size) if window else (size, inputs)
    return traced(nn.Sequential(*parts).eval(), shape), shape


def crossover(name: str, threads: int, rounds: int) -> str:
    """Return a table's line: × over dense ONNX Runtime by sparsity, and where ours passes it.

    The crossing lies between two shares, the higher one of which is named: what lies further
    away on either side is not measured.
    """
    model, shape = layer(name)
    x = np.random.default_rng(0).standard_normal((1, *shape)).astype(np.float32)
    ratios: dict[int, float] = {}

    def passes(share: int) -> bool:
        pruned = prune(model, share / 100)
        line = compare(name, str(share), pruned, x, threads, rounds, int8=False, why=False)
        ratios[share] = line.cold
        return line.cold >= 1

    middle = len(CROSSINGS) // 2
    if passes(CROSSINGS[middle]):
        next((share for share in CROSSINGS[middle - 1 :: -1] if not passes(share)), None)
    else:
        next((share for share in CROSSINGS[middle + 1 :] if passes(share)), None)
    first = min((share for share, ratio in ratios.items() if ratio >= 1), default=None)
    cells = (f"{ratios[share]:.2f}" if share in ratios else "" for share in CROSSINGS)
    return f"| {name} | {' | '.join(cells)} | {'above' if first is None else f'{first} %'} |"


PEERS = """\
Peers run in environments of their own (their pins clash with ours), in turns with ours:
  python3.11 -m venv ov && ov/bin/pip install openvino==2026.4.1
  python3.11 -m venv ds && ds/bin/pip install deepsparse==1.8.0 'numpy<2' 'onnx<1.15'
  make bench-kernels ARGS="--peer openvino=ov/bin/python deepsparse=ds/bin/python"
Their times are of the wall, ours with one thread of the processor: keep the machine idle."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the roofs of this core and a table."""
    given = _parser().parse_args(arguments)
    # Before anything runs: TVM makes its threads once, and would ask OMP_NUM_THREADS.
    os.environ["TVM_NUM_THREADS"] = str(given.threads)
    machine = build.machine(threads=given.threads)
    rates = {name: f"{rate / 1e9:.0f}" for name, rate in roofs.measure(machine).items()}
    _say(f"{machine.mcpu}, {given.threads} thread(s), GFLOP/s with one factor from: {rates}")
    if given.crossover:
        heads = " | ".join(f"{share} %" for share in CROSSINGS)
        _say(f"| layer | {heads} | passes dense from |\n|---|{'---|' * len(CROSSINGS)}---|")
        for name in LAYERS:
            _say(crossover(name, given.threads, given.rounds))
        return
    heads = HEAD + "".join(f" {named.partition('=')[0]} × |" for named in given.peer)
    _say(f"{heads}\n|{'---|' * (heads.count('|') - 1)}")
    for name in given.networks:
        _network(name, given)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hwbench.instruments.kernel_bench",
        description=__doc__,
        epilog=PEERS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--networks", nargs="+", default=NETWORKS, metavar="NETWORK",
        help=f"{' '.join(NETWORKS)} (all of them: about 25 minutes)",
    )  # fmt: skip
    parser.add_argument(
        "--patterns", nargs="+", default=["0", "50", "70", "80", "90", "95", "2x1:90", "4x1:90"],
        help="per cent of zeros, after NxM: for blocks of N outputs",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument(
        "--int8", action=argparse.BooleanOptionalAction, default=True,
        help="ONNX Runtime int8 (QDQ) as well, once a network",
    )  # fmt: skip
    parser.add_argument(
        "--crossover", action="store_true", help="single layers by sparsity, no networks"
    )
    parser.add_argument(
        "--save", type=Path, help="also write the pruned ONNX files here, for other runtimes"
    )
    parser.add_argument("--why", action="store_true", help="explain every layer")
    parser.add_argument(
        "--peer", nargs="+", default=[], metavar="NAME=PYTHON",
        help=f"other runtimes in environments of their own: {', '.join(kernel_peer.PEERS)}",
    )  # fmt: skip
    return parser


def _network(name: str, given: argparse.Namespace) -> None:
    """Print the lines of one network."""
    model = exported(name)
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim][1:]
    # The MLP's tokens are its batch; every other network gets one image.
    x = np.random.default_rng(0).standard_normal((1, *shape)).astype(np.float32)
    int8 = given.int8
    for pattern in given.patterns:
        block, _, share = pattern.rpartition(":")
        pruned = prune(model, float(share) / 100, int(block.split("x")[0]) if block else 1)
        if given.save:
            given.save.mkdir(parents=True, exist_ok=True)
            onnx.save(pruned, str(given.save / f"{name}_{pattern.replace(':', '_')}.onnx"))
        line = compare(
            name, pattern, pruned, x, given.threads, given.rounds, int8=int8, why=given.why,
            peers=given.peer,
        )  # fmt: skip
        _say(_line(line))
        int8 = False  # zeros make no difference to it: once a network


if __name__ == "__main__":
    main()
