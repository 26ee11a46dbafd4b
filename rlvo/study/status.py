"""The state of a study as its folder tells it: while the search runs, from another terminal, and after a crash."""

import hashlib
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import Field, ValidationError

from rlvo.config.base import Frozen
from rlvo.files import atomic_write, read_if_there
from rlvo.study.folder import CONFIGURATION, StudyFolder, read_config, read_configuration, trial_place
from rlvo.study.state import ConfigurationState, State, StudyState, TrialState, seconds_per_epoch, trial_state
from rlvo.training.records import EPOCHS, RECORD, CompletionRecord, EpochMetrics, parse_epochs

NOTE_SECONDS = 60.0
"""How long a note stays valid; the search writes it more often."""
SILENT_AFTER_EPOCHS = 3.0
SILENT_AFTER_SECONDS = 60.0
"""If there is no valid note, a trial that writes nothing for three epochs, and at least for this long, is silent."""
FIRST_EPOCH_SECONDS = 600.0
"""The same if nobody knows yet how long an epoch takes."""
TrialKey = tuple[str, int]
"""A configuration's key, and the fold."""


class Note(Frozen):
    """What only the process that runs the search knows. It helps those who watch; nothing else depends on it."""

    running: frozenset[TrialKey] = frozenset()
    failures: dict[str, dict[int, str]] = Field(default_factory=dict)
    """Why trials failed, by configuration and fold: not all failures leave a record."""
    prunings: dict[str, dict[int, str]] = Field(default_factory=dict)
    has_finished: bool = False
    """Whether every configuration was proposed, and every trial has ended."""
    at_once: int = 0
    """The most trials that have run at once since the search was started."""

    @classmethod
    def of(cls, state: StudyState) -> Self:
        """What a search says of itself."""
        by_key = {each.key: each for each in state.configurations}
        return cls(
            running=frozenset(
                (key, t.fold) for key, each in by_key.items() for t in each.trials if t.state == "running"
            ),
            failures={key: reasons for key, each in by_key.items() if (reasons := each.reasons("failed"))},
            prunings={key: reasons for key, each in by_key.items() if (reasons := each.reasons("pruned"))},
            has_finished=state.has_finished,
            at_once=state.at_once,
        )


def write_note(study: StudyFolder, note: Note) -> None:
    """Put a note into the study's folder, in place of the last one."""
    atomic_write(study.progress, note.model_dump_json())


def read_note(study: StudyFolder) -> Note | None:
    """The last note; None if there is none, or it is damaged."""
    with suppress(FileNotFoundError, ValidationError):
        return Note.model_validate_json(study.progress.read_bytes())
    return None


@dataclass(frozen=True)
class _Trace:
    """What a trial has left on disk."""

    fold: int
    record: CompletionRecord | None = None
    epochs: tuple[EpochMetrics, ...] = ()
    """Not read of a trial whose record tells all of them."""
    damage: str | None = None
    started: float | None = None
    """When its configuration was last started, seconds since 1970."""
    seen: float | None = None
    """Its last sign of life; None if it was not started."""


def read_state(study: StudyFolder, *, now: float | None = None) -> StudyState:
    """Where the study stands. Only reads, and checks no checksum, so it may be called every second.

    Args:
        study: its folder.
        now: seconds since 1970; None: the present.

    Raises:
        RlvoError: no study was started there, or its configuration cannot be read.
    """
    now = time.time() if now is None else now
    config, note, noted = read_config(study), read_note(study), _modified(study.progress)
    if note is None or noted is None or noted < (_modified(study.config) or 0.0):  # from before the last start
        note = noted = None
    said, is_alive = note or Note(), noted is not None and now - noted <= NOTE_SECONDS
    folders = [
        (folder.name, read_configuration(folder), _traces(folder, config.folds.folds))
        for folder in study.configurations()
    ]
    traces = [trace for *_, siblings in folders for trace in siblings]
    by_clock = [
        (trace.seen - trace.started) / len(trace.epochs)
        for trace in traces
        if trace.epochs and trace.seen is not None and trace.started is not None and trace.seen > trace.started
    ]
    pace = seconds_per_epoch((trace.record for trace in traces), max(by_clock, default=None))
    limit = FIRST_EPOCH_SECONDS if pace is None else max(SILENT_AFTER_SECONDS, SILENT_AFTER_EPOCHS * pace)

    def state(key: str, trace: _Trace) -> TrialState:
        fold = trace.fold
        if trace.damage:
            return TrialState(fold, "damaged", len(trace.epochs), reason=trace.damage, record=trace.record)
        if is_alive and (key, fold) in said.running:
            unended: State = "running"
        elif is_alive or trace.seen is None:
            unended = "waiting"
        else:
            unended = "running" if note is None and trace.seen >= now - limit else "silent"
        failure, pruning = said.failures.get(key, {}).get(fold), said.prunings.get(key, {}).get(fold)
        return trial_state(fold, trace.record, trace.epochs, failure=failure, pruning=pruning, unended=unended)

    configurations = []
    for key, configuration, siblings in folders:
        trials = [state(key, trace) for trace in siblings]
        configurations.append(ConfigurationState.of(key, configuration, trials, config.training.epochs))
    seen = [when for when in (noted, *(trace.seen for trace in traces)) if when is not None]
    return StudyState(
        name=config.name,
        configurations_total=max(config.configurations, len(configurations)),
        folds=config.folds.folds,
        epochs=config.training.epochs,
        configurations=tuple(configurations),
        quiet_seconds=max(now - max(seen), 0.0) if seen else None,
        at_once=said.at_once,
        has_finished=note is not None and note.has_finished,
    )


def _traces(configuration: Path, folds: int) -> list[_Trace]:
    """Of the trials of a configuration, by fold. Paths are text here: thousands of them are looked at."""
    started = _modified(configuration / CONFIGURATION)
    return [_trace(fold, trial_place(configuration, fold), started) for fold in range(folds)]


def _trace(fold: int, folder: str, started: float | None) -> _Trace:
    if (changed := _modified(folder)) is None:
        return _Trace(fold)
    record, epochs, damage = None, tuple[EpochMetrics, ...](), None
    try:
        if (written := read_if_there(f"{folder}/{RECORD}")) is not None:
            record = CompletionRecord.model_validate_json(written)
    except ValueError:
        damage = f"{RECORD} cannot be read"
    content = read_if_there(f"{folder}/{EPOCHS}") or b""
    if record is None or hashlib.sha256(content).hexdigest() != record.files.get(EPOCHS):  # else it is as written
        try:
            epochs = tuple(parse_epochs(content))
        except ValueError:
            damage = damage or f"{EPOCHS} cannot be read"
    return _Trace(fold, record, epochs, damage, started, max(changed, started or changed))


def _modified(path: str | Path) -> float | None:
    """When a file was written; when a file in a folder was last made, replaced or removed; None if it is missing."""
    with suppress(FileNotFoundError):
        return os.stat(path).st_mtime
    return None
