"""Where a study stands, read from its folder alone: while it runs, from another terminal, and after a crash."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from rlvo.config.base import Frozen
from rlvo.config.model import Configuration
from rlvo.config.study import StudyConfig
from rlvo.errors import RlvoError
from rlvo.files import atomic_write
from rlvo.training.records import CONFIGURATION, EPOCHS, OBJECTIVE, RECORD, CompletionRecord

STUDY = "study.json"
"""The study's configuration, written anew at every start."""
NOTE = "progress.json"
"""What only the process that runs the search knows. It helps who watches; nothing else depends on it."""
TrialState = Literal["finished", "pruned", "failed", "damaged", "running", "silent", "waiting", "skipped"]
"""`waiting`: for its turn, or for others to be compared with. `silent`: begun, not ended, and nobody trains it: the
search was stopped, or a process died. `skipped`: will not start, as a sibling failed. `damaged`: a file cannot be read.
"""

Where = tuple[str, int]
"""A configuration's key, and the fold."""
ENDED: tuple[TrialState, ...] = ("finished", "pruned", "failed", "skipped")
NOTE_SECONDS = 60.0
"""So long a note is believed; the search writes it more often."""
SILENT_AFTER_EPOCHS = 3.0
SILENT_AFTER_SECONDS = 60.0
"""Without a note a trial that writes nothing for three epochs, and at least for so long, is silent."""
FIRST_EPOCH_SECONDS = 600.0
"""The same where nobody knows yet how long an epoch takes."""


class Note(Frozen):
    """What the search says of itself."""

    running: frozenset[Where] = frozenset()
    failures: dict[str, dict[int, str]] = Field(default_factory=dict)
    """By configuration and fold: why a trial failed; not all failures leave a record."""
    prunings: dict[str, dict[int, str]] = Field(default_factory=dict)
    has_finished: bool = False
    """Every configuration was proposed, and every trial has ended."""


def write_note(folder: Path, note: Note) -> None:
    """Put a note into the study folder, in place of the last one."""
    atomic_write(folder / NOTE, note.model_dump_json())


@dataclass(frozen=True)
class TrialStatus:
    """A configuration on one fold."""

    fold: int
    state: TrialState = "waiting"
    epoch: int = 0
    """Epochs that have ended."""
    auc: float | None = None
    """`val/auc` of the best epoch; of the last one where the trial has not ended."""
    reason: str | None = None
    """Why it failed or was pruned, or what is damaged."""


@dataclass(frozen=True)
class ConfigurationStatus:
    """A configuration that was started, on all folds."""

    key: str
    label: str
    epochs: int
    """Of a whole trial."""
    trials: tuple[TrialStatus, ...]

    @property
    def state(self) -> TrialState:
        """That of the trial that decides: one failed fold fails all of them."""
        states = [trial.state for trial in self.trials]
        order: tuple[TrialState, ...] = ("failed", "pruned", "damaged", "running", "silent", "waiting")
        return next((state for state in order if state in states), "finished")

    @property
    def auc(self) -> float | None:
        """Mean of `val/auc` over the folds that have finished."""
        values = [trial.auc for trial in self.trials if trial.state == "finished" and trial.auc is not None]
        return math.fsum(values) / len(values) if values else None


@dataclass(frozen=True)
class StudyStatus:
    """A study at one moment."""

    name: str
    configurations_total: int
    folds: int
    configurations: tuple[ConfigurationStatus, ...]
    """Those that were started."""
    eta_seconds: float | None
    """How long it takes at most, at the pace of the trials so far; None where none runs or none has told its pace."""
    quiet_seconds: float | None
    """Since the last sign of life; None where no trial was started."""
    has_finished: bool = False
    """As the search said."""

    @property
    def trials_total(self) -> int:
        return self.configurations_total * self.folds

    @property
    def best(self) -> ConfigurationStatus | None:
        """The finished configuration with the highest mean `val/auc`."""
        finished = [each for each in self.configurations if each.state == "finished"]
        return max(finished, key=lambda each: each.auc or 0.0, default=None)

    @property
    def is_complete(self) -> bool:
        """Whether every trial has ended."""
        return self.has_finished or self.count(*ENDED) >= self.trials_total

    def count(self, *states: TrialState) -> int:
        """How many trials are in one of these states."""
        return sum(trial.state in states for each in self.configurations for trial in each.trials)


@dataclass(frozen=True)
class _Trace:
    """What a trial has left on disk."""

    fold: int
    record: CompletionRecord | None = None
    epochs: tuple[dict[str, float], ...] = ()
    damage: str | None = None
    started: float | None = None
    """When its configuration was last started, seconds since 1970."""
    seen: float | None = None
    """Its last sign of life; None where it was not started."""


def study_status(folder: Path, *, now: float | None = None) -> StudyStatus:
    """Where the study in `folder` stands. Only reads, and checks no checksum, so it may be asked every second.

    Args:
        folder: the study folder.
        now: seconds since 1970; None: the present.

    Raises:
        RlvoError: there is no study, or its configuration cannot be read.
    """
    now = time.time() if now is None else now
    study, (note, noted) = read_study(folder), _read_note(folder)
    is_alive = noted is not None and now - noted <= NOTE_SECONDS
    places = sorted(path for path in folder.glob("trials/*") if path.is_dir())
    traces = {place: [_trace(place, fold) for fold in range(study.folds.folds)] for place in places}
    everything = [trace for siblings in traces.values() for trace in siblings]
    pace = _seconds_an_epoch(everything)
    limit = FIRST_EPOCH_SECONDS if pace is None else max(SILENT_AFTER_SECONDS, SILENT_AFTER_EPOCHS * pace)
    configurations = []
    for place, siblings in traces.items():
        configuration = _configuration(place, siblings)
        configurations.append(
            ConfigurationStatus(
                key=place.name,
                label=configuration.label if configuration else f"{CONFIGURATION} cannot be read",
                epochs=(configuration or study).training.epochs,
                trials=_with_skipped([_trial(place.name, trace, note, is_alive, now - limit) for trace in siblings]),
            )
        )
    seen = [when for when in (noted, *(trace.seen for trace in everything)) if when is not None]
    return StudyStatus(
        name=study.name,
        configurations_total=max(study.configurations, len(configurations)),
        folds=study.folds.folds,
        configurations=tuple(configurations),
        eta_seconds=_eta(study, configurations, pace),
        quiet_seconds=max(now - max(seen), 0.0) if seen else None,
        has_finished=note is not None and note.has_finished,
    )


def study_folders(studies: Path) -> list[Path]:
    """The folders of the studies that were started, by name."""
    return sorted(path.parent for path in studies.glob(f"*/{STUDY}"))


def read_study(folder: Path) -> StudyConfig:
    """The frozen configuration of the study in `folder`. Raises RlvoError where there is none."""
    path = folder / STUDY
    try:
        return StudyConfig.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise RlvoError("no study was started here", where=folder, fix="Start it with rlvo search") from None
    except ValidationError:
        raise RlvoError("damaged, or written by another version of rlvo", where=path) from None


def _read_note(folder: Path) -> tuple[Note | None, float | None]:
    """The note and when it was written; none where it cannot be read, or is from before the study's last start."""
    written, started = _modified(folder / NOTE), _modified(folder / STUDY)
    if written is None or started is None or written < started:
        return None, None
    try:
        return Note.model_validate_json((folder / NOTE).read_bytes()), written
    except ValidationError:
        return None, None


def _configuration(place: Path, traces: Sequence[_Trace]) -> Configuration | None:
    """From its own file, else from a trial's record."""
    try:
        return Configuration.model_validate_json((place / CONFIGURATION).read_bytes())
    except (FileNotFoundError, ValidationError):
        return next((trace.record.configuration for trace in traces if trace.record), None)


def _trace(place: Path, fold: int) -> _Trace:
    folder = place / f"fold-{fold}"
    if (changed := _modified(folder)) is None:
        return _Trace(fold)
    started = _modified(place / CONFIGURATION)
    record, epochs, damage = None, [], None
    try:
        if (text := _text(folder / RECORD)) is not None:
            record = CompletionRecord.model_validate_json(text)
    except ValueError:
        damage = f"{RECORD} cannot be read"
    try:
        epochs = [json.loads(line) for line in (_text(folder / EPOCHS) or "").splitlines()]
    except ValueError:
        damage = damage or f"{EPOCHS} cannot be read"
    return _Trace(fold, record, tuple(epochs), damage, started, max(changed, started or changed))


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


def _modified(path: Path) -> float | None:
    """For a folder: when a file in it was last made, replaced or removed."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None


def _seconds_an_epoch(traces: Sequence[_Trace]) -> float | None:
    """Mean over the trials that have ended, else the slowest of those under way; None where no epoch has ended."""
    ended = [trace.record for trace in traces if trace.record is not None and trace.record.epochs]
    if ended:
        return sum(record.seconds for record in ended) / sum(record.epochs for record in ended)
    paces = [
        (trace.seen - trace.started) / len(trace.epochs)
        for trace in traces
        if trace.epochs and trace.seen is not None and trace.started is not None and trace.seen > trace.started
    ]
    return max(paces, default=None)


def _trial(key: str, trace: _Trace, note: Note | None, is_alive: bool, silent_before: float) -> TrialStatus:
    fold, record, epoch = trace.fold, trace.record, len(trace.epochs)
    if trace.damage:
        return TrialStatus(fold, "damaged", epoch, reason=trace.damage)
    if record is not None:
        auc = record.metrics.get(OBJECTIVE)
        if record.status == "finished" and auc is None:
            return TrialStatus(fold, "failed", record.epochs, reason=f"{OBJECTIVE} is undefined at the best epoch")
        return TrialStatus(fold, record.status, record.epochs, auc, record.reason)
    auc = trace.epochs[-1].get(OBJECTIVE) if trace.epochs else None
    if note is not None:
        if reason := note.failures.get(key, {}).get(fold):
            return TrialStatus(fold, "failed", epoch, auc, reason)
        if reason := note.prunings.get(key, {}).get(fold):
            return TrialStatus(fold, "pruned", epoch, auc, reason)
        if is_alive and (key, fold) in note.running:
            return TrialStatus(fold, "running", epoch, auc)
    if trace.seen is None:
        return TrialStatus(fold)
    if note is not None:
        return TrialStatus(fold, "waiting" if is_alive else "silent", epoch, auc)
    return TrialStatus(fold, "silent" if trace.seen < silent_before else "running", epoch, auc)


def _with_skipped(trials: Sequence[TrialStatus]) -> tuple[TrialStatus, ...]:
    if not any(trial.state in ("failed", "pruned") for trial in trials):
        return tuple(trials)
    return tuple(TrialStatus(trial.fold, "skipped") if trial.state == "waiting" else trial for trial in trials)


def _eta(study: StudyConfig, configurations: Sequence[ConfigurationStatus], pace: float | None) -> float | None:
    trials = [(each.epochs, trial) for each in configurations for trial in each.trials]
    running = sum(trial.state == "running" for _, trial in trials)
    if pace is None or not running:
        return None
    left = sum(epochs - trial.epoch for epochs, trial in trials if trial.state not in ENDED)
    unknown = max(study.configurations - len(configurations), 0) * study.folds.folds
    return (left + unknown * study.training.epochs) * pace / running
