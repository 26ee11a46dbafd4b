"""The log of hold-out openings, one per work folder: append-only, and each line carries the hash of the one before.

The lock belongs to the split: the first opening is free, each later one, by any study, needs a reason. The hash of the
last line is also kept outside the log (a seal), so that a log that was edited, cut or deleted is noticed.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from rlvo.config.base import Frozen
from rlvo.errors import RlvoError


class Opening(Frozen):
    """One line of the log."""

    opening: int
    """How often the split's hold-out has been opened, including this time."""
    time: str
    """UTC, ISO 8601."""
    split_hash: str
    study: str
    ensembles: dict[str, str]
    """Content hash of each ensemble that was evaluated, by name."""
    reason: str | None = None
    """Why it was opened again."""
    previous: str | None = None
    """SHA-256 of the line before."""


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

    def check_may_open(self, split_hash: str, reason: str | None) -> None:
        """Raise RlvoError if the split was opened before and no reason is given, or if the log was altered."""
        before = self.of_split(split_hash)
        if before and not reason:
            last = before[-1]
            raise RlvoError(
                f"this hold-out was opened before: opening {last.opening}, {last.time}, study {last.study}",
                where=self.path,
                fix="The results of that opening are kept; to open it once more, which is counted, give --again "
                "--reason TEXT",
            )

    def append(self, split_hash: str, study: str, ensembles: Mapping[str, str], reason: str | None) -> Opening:
        """Record an opening, flushed to disk. Raises RlvoError as `check_may_open` does."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed: two processes cannot both open for the first time
            self.check_may_open(split_hash, reason)
            opening = Opening(
                opening=len(self.of_split(split_hash)) + 1,
                time=datetime.now(UTC).isoformat(timespec="seconds"),
                split_hash=split_hash,
                study=study,
                ensembles=dict(ensembles),
                reason=reason,
                previous=self.seal(),
            )
            file.write(opening.model_dump_json() + "\n")
            file.flush()
            os.fsync(file.fileno())
        return opening

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
