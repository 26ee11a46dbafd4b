"""What each epoch took of the machine, and by which code. Beside the training: it is no part of a trial's result."""

import json
import math
import resource
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic_core import from_json

from rlvo.about import code_version
from rlvo.files import file_version, read_end, read_if_there
from rlvo.training.energy import CPU, GPU, EnergyMeter

USAGE = "usage.jsonl"
SECONDS = "system/epoch_seconds"
"""Since the epoch before it ended or, for the first one, since the trial was started: checkpoints included."""
TOTAL = "total"
"""Key of a line that stands for all lines above it."""
TOTAL_BYTES = 256
"""More than such a line takes."""
GB = 1e9


@dataclass(frozen=True)
class Pace:
    """How long a trial takes, in seconds."""

    epoch: float
    """One epoch, with its checkpoint."""
    start: float = 0.0
    """What every start takes in addition: intensities are measured, and the network is built."""


class UsageMeter:
    """Measures one trial in this process, epoch by epoch, and adds a line each to `usage.jsonl` in its folder.

    Before the first of them, and after every restart, stands a line that names the code.

    Args:
        folder: the trial's.
        images: how many patients an epoch shows the network, in training and validation.
        energy: counts what the epochs take.
    """

    def __init__(self, folder: Path, images: int, energy: EnergyMeter | None = None) -> None:
        self._path, self._images, self._since = folder / USAGE, images, time.monotonic()
        self._energy = energy
        self._code: str | None = code_version()

    def after_epoch(self, epoch: int) -> None:
        """Write down when the epoch ended (ms since 1970) and what it took. Raises OSError if that is not possible."""
        now = time.monotonic()
        line = {"epoch": epoch, "when": time.time_ns() // 1_000_000, **self._measured(now - self._since)}
        self._since = now
        with self._path.open("a") as file:
            if self._code:
                file.write(json.dumps({"code": self._code}) + "\n")
                self._code = None
            file.write(json.dumps(line) + "\n")

    def _measured(self, seconds: float) -> dict[str, float]:
        import torch  # whoever only reads what was measured starts without it

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GB  # Linux counts it in KiB
        usage = {
            SECONDS: seconds,
            "system/images_per_second": self._images / seconds,
            "system/memory_peak_gb": peak,
        }
        if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
            usage["system/gpu_memory_peak_gb"] = torch.cuda.max_memory_allocated() / GB
            with suppress(ModuleNotFoundError, RuntimeError):  # it takes NVIDIA's nvidia-ml-py
                usage["system/gpu_utilization_percentage"] = float(torch.cuda.utilization())
        return usage | (self._energy.since_last() if self._energy else {})


def note_total(folder: Path) -> None:
    """Add up, in one last line, what the epochs of a trial that ends have taken: that is all a look at thousands needs.

    Raises OSError if that is not possible.
    """
    if lines := _lines(folder):
        pace, joules = _pace_and_energy(lines)
        total = {"pace": pace and asdict(pace), "joules": joules if math.isfinite(joules) else None}
        with (folder / USAGE).open("a") as file:
            file.write(json.dumps({TOTAL: total}) + "\n")


def _read_total(folder: str) -> tuple[Pace | None, float] | None:
    """What the last line says if it stands for all; None if it is another, or the file is missing."""
    try:
        end = read_end(f"{folder}/{USAGE}", TOTAL_BYTES)
        total = from_json(end[end.rindex(b"\n", 0, -1) + 1 :])[TOTAL]
        pace, joules = total["pace"], total["joules"]
        return None if pace is None else Pace(**pace), math.nan if joules is None else joules
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        return None


def read_usage(folder: Path) -> dict[int, Mapping[str, float]]:
    """What was measured, by epoch (from 1); lines that were cut short are left out."""
    return {int(line.pop("epoch")): line for line in _lines(folder) if "epoch" in line}


def read_pace(folder: Path) -> Pace | None:
    """Mean over the trial's epochs so far; None if none has ended, or their duration was not written down."""
    return _pace_and_energy(_lines(folder))[0]


def read_energy(folder: Path) -> float:
    """Joules that the trial's epochs took, those included that were trained twice; NaN if none was counted."""
    return _pace_and_energy(_lines(folder))[1]


class UsageReader:
    """Reads what many trials took, again and again: only of those that have written something since the last time."""

    def __init__(self) -> None:
        self._read: dict[str, tuple[tuple[int, int] | None, Pace | None, float]] = {}
        self._ended: dict[str, tuple[Pace | None, float]] = {}

    def pace_and_energy(self, folder: Path | str, *, has_ended: bool = False) -> tuple[Pace | None, float]:
        """As `read_pace` and `read_energy` tell them of the trial in `folder`; once it has ended, it writes no more.

        Thousands of trials are asked for: a folder that is given as text costs less.
        """
        folder = str(folder)
        if has_ended:
            if (ended := self._ended.get(folder)) is None:
                ended = self._ended[folder] = _read_total(folder) or _pace_and_energy(_lines(folder))
            return ended
        self._ended.pop(folder, None)
        version, known = file_version(f"{folder}/{USAGE}"), self._read.get(folder)
        if known is None or known[0] != version:
            known = (version, *_pace_and_energy(_lines(folder) if version is not None else []))
            self._read[folder] = known
        return known[1:]


def read_code(folder: Path) -> tuple[str, ...]:
    """By what code the trial was trained, the first start's first; empty if that was not recorded."""
    return tuple(dict.fromkeys(str(line["code"]) for line in _lines(folder) if "code" in line))


def _lines(folder: Path | str) -> list[dict[str, Any]]:
    content = read_if_there(f"{folder}/{USAGE}") or b""
    try:
        contents = from_json(b"[%b]" % content.strip().replace(b"\n", b","))
    except ValueError:  # some were cut short
        contents = map(_from_json, content.splitlines())
    return [content for content in contents if isinstance(content, dict)]


def _from_json(line: bytes) -> Any:
    with suppress(ValueError):
        return from_json(line)
    return None


def _pace_and_energy(lines: Iterable[Mapping[str, Any]]) -> tuple[Pace | None, float]:
    first, later, joules, has_started = list[float](), list[float](), list[float](), True
    for line in lines:
        if SECONDS in line:
            (first if has_started else later).append(line[SECONDS])
        if CPU in line:
            joules.append(line[CPU])
        if GPU in line:
            joules.append(line[GPU])
        has_started = "code" in line
    energy = float(sum(joules)) if joules else math.nan
    if not first:
        return None, energy
    epoch = fmean(later or first)
    return Pace(epoch, max(fmean(first) - epoch, 0.0)), energy
