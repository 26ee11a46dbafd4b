"""What a file or folder holds, as a hash, remembered so that a cohort of 100 GB is read once and not at every start."""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import suppress
from itertools import islice
from pathlib import Path

from rlvo.errors import RlvoError
from rlvo.files import atomic_write, file_sha256
from rlvo.imaging.dicom_headers import MAX_FILES

SETTLED_S = 2.0
"""A file changed more recently could change again within one tick of the file system's clock: not remembered yet."""


class ContentHashes:
    """SHA-256 (hex) of files and folders, remembered in small files under `memory`.

    A hash is found again by a hash over path, size, times and inode: `memory` holds no path in clear, and processes and
    machines can share it. A changed file is read again even where its modification time was set back, since nobody can
    set back the time of that change itself.
    """

    def __init__(self, memory: Path) -> None:
        self.memory = memory

    def remembered(self, path: Path) -> str | None:
        """What `of` would give, where it need not read the files for it. Raises as `of`."""
        return _read(self.memory / _key(path, *_files(path)))

    def of(self, path: Path) -> str:
        """Hash over a file's bytes, or over the hashes of a folder's files in the order of their names.

        Raises:
            OSError: not there, or it cannot be read.
            RlvoError: a folder with so many files that it cannot be one patient's.
        """
        files, states = _files(path)
        known = self.memory / _key(path, files, states)
        if (remembered := _read(known)) is not None:
            return remembered
        hashes = [file_sha256(each) for each in files]
        content = hashlib.sha256("".join(hashes).encode()).hexdigest() if path.is_dir() else hashes[0]
        if all(max(state.st_mtime, state.st_ctime) < time.time() - SETTLED_S for state in states):
            with suppress(OSError):  # a store that cannot be written only costs time
                atomic_write(known, content)
        return content


def _files(path: Path) -> tuple[list[Path], list[os.stat_result]]:
    """The file itself, or a folder's files, and the state of each."""
    files = [path]
    if path.is_dir():
        files = sorted(islice((each for each in path.rglob("*") if each.is_file()), MAX_FILES + 1))
    if len(files) > MAX_FILES:
        raise RlvoError(f"holds more than {MAX_FILES} files", where=path, fix="Give the folder of one series")
    return files, [each.stat() for each in files]


def _key(path: Path, files: list[Path], states: list[os.stat_result]) -> str:
    lines = [str(path.absolute())]
    for file, state in zip(files, states, strict=True):
        lines.append(f"{file.name} {state.st_size} {state.st_mtime_ns} {state.st_ctime_ns} {state.st_ino}")
    key = hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()
    return f"{key[:2]}/{key}"


def _read(known: Path) -> str | None:
    """The remembered hash; None where there is none."""
    try:
        content = known.read_text()
    except (OSError, UnicodeDecodeError):
        return None
    return content if len(content) == hashlib.sha256().digest_size * 2 else None
