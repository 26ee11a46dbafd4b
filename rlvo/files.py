"""Files that are either whole or not there."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlvo.errors import DiskFullError

FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up", errno.EFBIG: "file size limit"}


def atomic_write(path: Path, data: bytes | str) -> None:
    """Write `data` to `path` so that a reader sees the old content or the new, also after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)  # there only where the write failed


@contextmanager
def told_when_full(folder: Path) -> Iterator[None]:
    """Raise DiskFullError where the disk has no room for what is written to `folder` inside."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        fix = "Make room, then start the search again: it goes on from the last checkpoints"
        raise DiskFullError(FULL[error.errno], where=folder, fix=fix) from None


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
