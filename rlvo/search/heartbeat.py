"""A sign of life in a study's folder: it keeps away a second search on a host whose file locks do not meet this one's.

On some network storage a lock holds on one host only. So the process that runs a search also changes a file every few
seconds. Whoever starts and finds that file watches whether it changes, and takes the study over only if it does not: no
two clocks are compared, and the times in the file are for people. A search that stood still for so long that another
took its study over finds the other's file at its next beat, and ends.

Every search that takes a study over makes a file of the next generation, which only one process can, and removes those
before it: to remove a file and then make it anew would let two that found the same dead search both go on.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from rlvo.errors import RlvoError, get_logger
from rlvo.files import parse_json
from rlvo.study.folder import StudyFolder

BEAT_SECONDS = 5.0
WATCH_SECONDS = 70.0
"""How long a file must not change until its search counts as dead: many beats, and more than the 60 s for which an NFS
client may take what it has read for what is there."""
POLL_SECONDS = 0.5

Refusal = Callable[[StudyFolder, str], RlvoError]
"""Gives the error, from the folder and who is at work there."""

logger = get_logger(__name__)


class Heartbeat:
    """Keep the study to this process for the length of the context.

    Args:
        study: its folder, which exists.
        is_locked: this process holds the study's lock, so no other process of this kernel runs its search.
        refusal: the error if another search is at work, or has taken over; None: that of a study's search.

    Raises:
        RlvoError: on entering, another search is at work on it.
    """

    def __init__(self, study: StudyFolder, *, is_locked: bool = True, refusal: Refusal | None = None) -> None:
        self._study, self._is_locked, self._refusal = study, is_locked, refusal
        self._token, self._since, self._beats = secrets.token_hex(8), _now(), 0
        self._file, self._generation = -1, 0
        self._has_ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_beating, name="heartbeat", daemon=True)
        self._successor: str | None = None

    def __enter__(self) -> Self:
        while True:
            left = self._found()
            newest = max(left, default=None)
            if newest is not None and not self._is_dead(newest, left[newest]):
                continue  # its search has just ended in good order
            if self._create(0 if newest is None else newest + 1):
                break
        for generation, content in self._found().items():
            if generation != self._generation:
                if left.get(generation) != content:
                    self._end()
                    raise self._at_work(content)
                self._path(generation).unlink(missing_ok=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._has_ended.set()
        self._thread.join()
        self._end()

    def check(self) -> None:
        """Raise RlvoError if another search has taken the study over, because this one stood still."""
        if self._successor is not None:
            if self._refusal is not None:
                raise self._refusal(self._study, self._successor)
            raise RlvoError(
                f"this search stood still, and another has taken the study over ({self._successor})",
                where=self._study.path,
                fix=f"Let that one run: `{self._study.command('status')}` shows how far it is",
            )

    def beat(self) -> None:
        """Change the file, unless another search has taken the study over by now."""
        found = self._found()
        if self._generation not in found and self._create(self._generation):  # somebody has removed it
            return
        generation = max(found, default=self._generation)
        if generation > self._generation or not self._is_own(found.get(generation, b"")):
            self._successor = _who(found.get(generation, b""))
        else:
            self._write()

    def _keep_beating(self) -> None:
        while self._successor is None and not self._has_ended.wait(BEAT_SECONDS):
            with suppress(OSError):  # the storage is away, or the disk full: the next beat may succeed
                self.beat()

    def _found(self) -> dict[int, bytes]:
        """What the files say that are there, by generation."""
        base = self._study.heartbeat
        generations = [
            0,
            *(int(path.suffix[1:]) for path in base.parent.glob(f"{base.name}.*") if path.suffix[1:].isdigit()),
        ]
        contents = ((generation, _read(self._path(generation))) for generation in generations)
        return {generation: content for generation, content in contents if content is not None}

    def _path(self, generation: int) -> Path:
        base = self._study.heartbeat
        return base.with_name(f"{base.name}.{generation}") if generation else base

    def _create(self, generation: int) -> bool:
        """Make the file of a generation, of all who try at once only one; False: there is one already."""
        try:
            file = os.open(self._path(generation), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            return False
        try:
            self._hold(file)
        except OSError:  # the disk is full
            self._path(generation).unlink()
            raise
        self._generation = generation
        return True

    def _end(self) -> None:
        path = self._path(self._generation)
        with suppress(OSError):  # the storage is away
            os.close(self._file)
            if self._is_own(_read(path)):
                path.unlink(missing_ok=True)

    def _hold(self, file: int) -> None:
        """Write to this file from now on. If another takes its name, writing to it changes nothing."""
        if self._file >= 0:
            os.close(self._file)
        self._file = file
        self._write()

    def _write(self) -> None:
        self._beats += 1
        content = {
            "process": os.getpid(),
            "host": socket.gethostname(),
            "kernel": kernel_id(),
            "token": self._token,
            "since": self._since,
            "now": _now(),
            "beat": f"{self._beats:012}",  # the length stays, so a full disk has room for it
        }
        os.pwrite(self._file, (json.dumps(content) + "\n").encode(), 0)
        os.fsync(self._file)

    def _is_dead(self, generation: int, found: bytes) -> bool:
        """Whether the search of the newest file is dead; False: it has just ended. Raises RlvoError if one runs."""
        if self._is_locked and _parse(found).get("kernel") == kernel_id():
            return True
        logger.warning(
            "%s: the last search here (%s) did not end in good order; watching for %.0f s whether it still runs",
            self._study.path,
            _who(found),
            WATCH_SECONDS,
        )
        deadline = time.monotonic() + WATCH_SECONDS
        while time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            now = self._found()
            newest = max(now, default=0)
            if newest > generation or now.get(generation, found) != found:
                raise self._at_work(now[newest])
            if generation not in now:
                return False
        return True

    def _at_work(self, found: bytes) -> RlvoError:
        return (self._refusal or at_work)(self._study, _who(found))

    def _is_own(self, found: bytes | None) -> bool:
        return found is not None and _parse(found).get("token") == self._token


def at_work(study: StudyFolder, who: str) -> RlvoError:
    """The error if another search works on a study."""
    return RlvoError(
        f"another search is at work on this study ({who})",
        where=study.path,
        fix=f"Wait for it (`{study.command('status')}` shows how far it is), or end that process",
    )


def kernel_id() -> str:
    """The running kernel, which a host's containers share, until its next start: a lock holds at least within it."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return socket.gethostname()


def _read(path: Path) -> bytes | None:
    with suppress(FileNotFoundError):
        return path.read_bytes()
    return None


def _parse(content: bytes) -> dict[str, object]:
    """What a file says; nothing if it is just being written."""
    with suppress(ValueError):
        if isinstance(found := parse_json(content), dict):
            return found
    return {}


def _who(content: bytes) -> str:
    found = _parse(content)
    return f"process {found.get('process', '?')} on {found.get('host', '?')}, since {found.get('since', '?')}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
