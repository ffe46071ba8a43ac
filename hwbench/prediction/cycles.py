"""Cycles of an ARM program: blocks counted under QEMU, priced by llvm-mca, misses by a cache model.

Time = cycles / clock + bytes that missed the last cache / bandwidth. QEMU runs the genuine aarch64
program and the plugin blockcount counts how often each basic block ran between two marks; llvm-mca
says how many cycles a block takes in a steady state on that core (its scheduling model). The
figures of the cores are those of the boards' published data, not fitted; see docs/prediction.md.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hwbench.errors import StageError

Block = tuple[str, ...]
"""Instructions of a basic block, each in eight hexadecimal digits."""

COVERED = 0.99
"""Share of the instructions that is priced; the rest (blocks that hardly ran) at the mean."""
LINE = 64
"""Bytes of a cache line."""
_ITERATIONS = 100
_CHUNK = 200
_UNPRICED = 0.6
"""Cycles an instruction where llvm-mca knows it not: about what the others come to."""
_FEATURES = "-mattr=+v8.2a,+dotprod,+lse,+crc,+fullfp16"
_INVALID = re.compile(r"<stdin>:(\d+):\d+: warning")
_CYCLES = re.compile(r"^Total Cycles:\s+(\d+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Core:
    """A core on its board: ``clock`` in Hz, ``caches`` in (bytes, ways), ``bandwidth`` in B/s."""

    name: str
    clock: float
    caches: tuple[tuple[int, int], ...]
    bandwidth: float

    @property
    def geometry(self) -> str:
        """The caches as blockcount takes them: ``32768:2+1048576:16``."""
        return "+".join(f"{size}:{ways}" for size, ways in self.caches)


CORES: Mapping[str, Core] = {
    core.name: core
    for core in (
        # Arm's technical reference manual of each core; caches and memory as the board has them.
        Core("cortex-a53", 1.4e9, ((32 << 10, 4), (512 << 10, 16)), 2.0e9),
        Core("cortex-a72", 1.8e9, ((32 << 10, 2), (1 << 20, 16)), 4.0e9),
        Core("cortex-a76", 2.4e9, ((64 << 10, 4), (512 << 10, 8), (2 << 20, 16)), 10.0e9),
    )
}


@dataclass(frozen=True, slots=True)
class Counts:
    """What blockcount wrote: executions of each block, and the misses of each cache."""

    runs: Mapping[Block, int]
    accesses: int
    misses: tuple[int, ...]

    @property
    def instructions(self) -> int:
        """Instructions executed between the marks."""
        return sum(len(block) * runs for block, runs in self.runs.items())


def read(path: Path) -> list[Counts]:
    """Return what a file of blockcount's says of each stretch between two marks.

    Raises `StageError` when it is not whole.
    """
    stretches = []
    runs: Counter[Block] = Counter()
    words = ["complete"]
    for line in path.read_text().splitlines():
        words = line.split()
        if words[0] != "#":
            runs[tuple(words[1:])] += int(words[0])
        elif words[-1] == "complete":
            numbers = [int(word) for word in words[2:-1]]
            stretches.append(Counts(runs, numbers[0], tuple(numbers[1::2])))
            runs = Counter()
    if words[-1] != "complete":
        raise StageError("predict", f"{path} was not written to its end")
    return stretches


def cycles(counts: Counts, core: Core, prices: dict[Block, float] | None = None) -> float:
    """Return the cycles of what was counted; `prices` remembers blocks between calls."""
    known = {} if prices is None else prices
    heaviest = sorted(counts.runs, key=lambda b: len(b) * counts.runs[b], reverse=True)
    total, covered, chosen = counts.instructions, 0, []
    for block in heaviest:
        if covered > COVERED * total:
            break
        covered += len(block) * counts.runs[block]
        chosen.append(block)
    price([b for b in chosen if b not in known], core.name, known)
    chosen_cycles = sum(known[block] * counts.runs[block] for block in chosen)
    return chosen_cycles * total / covered if covered else 0.0


def seconds(counts: Counts, core: Core, prices: dict[Block, float] | None = None) -> float:
    """Return the predicted time of what was counted."""
    missed = counts.misses[-1] * LINE if counts.misses else 0
    return cycles(counts, core, prices) / core.clock + missed / core.bandwidth


def price(blocks: Sequence[Block], mcpu: str, prices: dict[Block, float]) -> None:
    """Add to `prices` the cycles of one execution of each block in a steady state."""
    texts = _disassembled({word for block in blocks for word in block})
    for start in range(0, len(blocks), _CHUNK):
        _price(blocks[start : start + _CHUNK], texts, mcpu, prices)


def _price(
    blocks: Sequence[Block], texts: Mapping[str, str], mcpu: str, prices: dict[Block, float]
) -> None:
    listing = "\n".join(
        f"# LLVM-MCA-BEGIN\n{_listing(block, texts)}\n# LLVM-MCA-END" for block in blocks
    )
    arguments = ["llvm-mca", "-mtriple=aarch64", f"-mcpu={mcpu}", f"-iterations={_ITERATIONS}"]
    report = _run([*arguments, "-resource-pressure=0", "-instruction-info=0", _FEATURES], listing)
    costs = [int(number) / _ITERATIONS for number in _CYCLES.findall(report)]
    if len(costs) == len(blocks):
        prices.update(zip(blocks, costs, strict=True))
    elif len(blocks) == 1:
        prices[blocks[0]] = _UNPRICED * len(blocks[0])
    else:
        # An instruction that llvm-mca refuses fails them all: halve until it is alone.
        middle = len(blocks) // 2
        _price(blocks[:middle], texts, mcpu, prices)
        _price(blocks[middle:], texts, mcpu, prices)


def _listing(block: Block, texts: Mapping[str, str]) -> str:
    return "\n".join(texts.get(word, "nop") for word in block)


def _disassembled(words: Iterable[str]) -> dict[str, str]:
    """Return the assembly of each instruction; those that are none are left out."""
    ordered = sorted(words)
    given = "".join(" ".join(f"0x{w[i : i + 2]}" for i in (6, 4, 2, 0)) + "\n" for w in ordered)
    done = subprocess.run(
        ["llvm-mc", "--disassemble", "-triple=aarch64", _FEATURES],
        input=given, capture_output=True, text=True, check=False,
    )  # fmt: skip
    invalid = {int(line) - 1 for line in _INVALID.findall(done.stderr)}
    valid = [word for i, word in enumerate(ordered) if i not in invalid]
    lines = [line.strip() for line in done.stdout.splitlines()]
    texts = [line for line in lines if line and not line.startswith(".")]
    if len(texts) != len(valid):
        raise StageError("predict", f"llvm-mc took {len(texts)} of {len(valid)} instructions")
    return dict(zip(valid, texts, strict=True))


def _run(command: Sequence[str], text: str) -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    return done.stdout
