"""Files that are written whole or not at all."""

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
    """Write `data` to `path` so that a reader sees either the old content or the new, even after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)  # it exists only if the write failed


@contextmanager
def disk_full_errors(folder: Path) -> Iterator[None]:
    """Raise DiskFullError if the disk has no room for what the context writes to `folder`."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        fix = "Free some space, then start the search again: it continues from the last checkpoints"
        raise DiskFullError(FULL[error.errno], where=folder, fix=fix) from None


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
