"""The log of hold-out openings, one per work folder: append-only, and each line carries the hash of the one before.

The lock belongs to the patients: the first opening is free, each later one of any of them, by any study, needs a
reason. They are recognised whatever their ids, the folds or the other patients are now (`rlvo.study.membership`); the
log holds keyed hashes of what they are recognised by. The hash of the last line is also kept outside the log (a seal),
so that a log that was edited, cut or deleted is noticed.
"""

import fcntl
import hashlib
import hmac
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rlvo.cohort.pseudonym import KEY_FILE, cohort_key
from rlvo.cohort.splits import read_split
from rlvo.config.base import Frozen
from rlvo.config.commands import command_line
from rlvo.config.workdir import Workdir
from rlvo.errors import RlvoError
from rlvo.study.folder import StudyFolder, read_config
from rlvo.study.membership import Marks, patient_marks, recognise, study_table


class Opening(Frozen):
    """One line of the log."""

    opening: int
    """How often patients of this hold-out have been opened, including this time."""
    time: str
    """UTC, ISO 8601."""
    split_hash: str
    study: str
    ensembles: dict[str, str]
    """Content hash of each ensemble that was evaluated, by name."""
    reason: str | None = None
    """Why it was opened again."""
    patients: tuple[dict[str, str], ...] | None = None
    """What each of its patients is recognised by, by kind, as keyed hashes; None in lines of older versions."""
    seen_before: int = 0
    """How many of them had been in a hold-out that was opened."""
    unknown: int = 0
    """How many earlier openings were of patients who are no longer known."""
    key: str | None = None
    """Hash of the key."""
    previous: str | None = None
    """SHA-256 of the line before."""


@dataclass(frozen=True)
class Earlier:
    """What of a group of patients was opened before."""

    openings: tuple[Opening, ...]
    """Those that showed any of them, oldest first."""
    patients: frozenset[str]
    """Whom they showed."""
    unknown: int
    """How many openings, of older versions, were of patients whom nothing tells any more."""


class Openings:
    """The log of one work folder.

    Args:
        workdir: the work folder.
        seals: hashes of last lines that are kept elsewhere, with which the log is compared.
    """

    def __init__(self, workdir: Path, seals: Iterable[str] = ()) -> None:
        self.path, self._seals = workdir / "openings.jsonl", {*seals}

    def of_split(self, split_hash: str) -> list[Opening]:
        """The split's openings, oldest first. Raises RlvoError if the log was altered."""
        return [opening for opening in self._read()[0] if opening.split_hash == split_hash]

    def earlier(self, patients: Mapping[str, Marks], split_hash: str | None = None) -> Earlier:
        """Which openings showed any of these patients, and whom.

        Args:
            patients: what each is recognised by (`rlvo.study.membership.patient_marks`).
            split_hash: of the split whose whole hold-out they are, if they are one.

        Raises:
            RlvoError: the log was altered, or its key is lost.
        """
        log = self._read()[0]
        keyed = self._keyed(patients, log) if any(opening.patients is not None for opening in log) else {}
        found, seen, unknown = [], set(), 0
        for opening in log:
            if opening.split_hash == split_hash:
                shown = {*patients}
            elif opening.patients is not None:
                shown = {*recognise(keyed, {str(n): marks for n, marks in enumerate(opening.patients)})}
            elif (by_study := self._shown_without_marks(opening, patients)) is not None:
                shown = by_study
            else:
                shown, unknown = set(), unknown + 1
            if shown or opening.split_hash == split_hash:
                found.append(opening)
                seen |= shown
        return Earlier(tuple(found), frozenset(seen), unknown)

    def check_may_open(
        self, split_hash: str, reason: str | None, patients: Mapping[str, Marks] | None = None
    ) -> Earlier:
        """What was opened before. Raises RlvoError if anything was and no reason is given, or if the log was altered.

        Args:
            patients: as for `earlier`; None: the split's hash tells alone.
        """
        earlier = self.earlier(patients or {}, split_hash)
        if earlier.openings and not reason:
            last, some, whole = earlier.openings[-1], len(earlier.patients), len(patients or ())
            show = command_line("evaluate", last.study, "--show", workdir=self.path.parent)
            which = "this hold-out was" if some == whole else f"{some} of this hold-out's {whole} patients were"
            raise RlvoError(
                f"{which} opened before: opening {last.opening}, {last.time}, study {last.study}",
                where=self.path,
                fix=f"`{show}` shows again what it showed; to open it once more, which is counted, give --again "
                "--reason TEXT",
            )
        return earlier

    def append(
        self,
        split_hash: str,
        study: str,
        ensembles: Mapping[str, str],
        reason: str | None,
        patients: Mapping[str, Marks] | None = None,
    ) -> Opening:
        """Record an opening, flushed to disk. Arguments and errors are those of `check_may_open`."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed: two processes cannot both open for the first time
            earlier = self.check_may_open(split_hash, reason, patients)
            keyed = self._keyed(patients, self._read()[0]) if patients is not None else None
            opening = Opening(
                opening=len(earlier.openings) + 1,
                time=datetime.now(UTC).isoformat(timespec="seconds"),
                split_hash=split_hash,
                study=study,
                ensembles=dict(ensembles),
                reason=reason,
                patients=tuple(keyed.values()) if keyed is not None else None,
                seen_before=len(earlier.patients),
                unknown=earlier.unknown,
                key=_key_hash(cohort_key(self.path.parent)) if keyed is not None else None,
                previous=self.seal(),
            )
            file.write(opening.model_dump_json() + "\n")
            file.flush()
            os.fsync(file.fileno())
        return opening

    def _keyed(self, patients: Mapping[str, Marks], log: Iterable[Opening]) -> dict[str, dict[str, str]]:
        """The patients' marks as the log holds them. Raises RlvoError if its key is not the one it was written with."""
        key = cohort_key(self.path.parent)
        if any(opening.key not in (None, _key_hash(key)) for opening in log):
            raise RlvoError(
                f"the key of the log of hold-out openings ({KEY_FILE}) was lost or changed",
                where=self.path,
                fix="Put it back from a backup; without it nobody can say whose outcomes were seen",
            )

        def hashed(kind: str, mark: str) -> str:
            return hmac.new(key, f"{kind} {mark}".encode(), hashlib.sha256).hexdigest()[:16]

        return {p: {kind: hashed(kind, mark) for kind, mark in marks.items()} for p, marks in patients.items()}

    def _shown_without_marks(self, opening: Opening, patients: Mapping[str, Marks]) -> set[str] | None:
        """Whom an opening of an older version showed; None if its study's folder does not tell any more."""
        study = StudyFolder(Workdir(self.path.parent).study(opening.study))
        try:
            config, split = read_config(study), read_split(study.split)
        except RlvoError:
            return None
        if split.hash != opening.split_hash:
            return None
        own = study_table(config.cohort)
        if own is None:
            return {*split.test} & {*patients}
        tested = own[own.index.isin(split.test)]
        return {*recognise(patients, patient_marks(tested))} if len(tested) else None

    def seal(self) -> str | None:
        """The hash of the last line; None if nothing has been opened yet."""
        return self._read()[1]

    def _read(self) -> tuple[list[Opening], str | None]:
        try:
            lines = self.path.read_text().splitlines()
            openings = [Opening.model_validate_json(line) for line in lines]
        except FileNotFoundError:
            lines, openings = [], []
        except ValueError:
            raise self._altered() from None
        hashes = [hashlib.sha256(line.encode()).hexdigest() for line in lines]
        if [opening.previous for opening in openings] != [None, *hashes][: len(lines)] or not self._seals <= {*hashes}:
            raise self._altered()
        return openings, hashes[-1] if hashes else None

    def _altered(self) -> RlvoError:
        return RlvoError(
            "the log of hold-out openings was altered or lost: lines are missing or have changed",
            where=self.path,
            fix="Put the log back from a backup; without it nobody can say how often the hold-out was seen",
        )


def _key_hash(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()[:16]
