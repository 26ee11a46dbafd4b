"""Content hashes of files and folders, remembered so that a cohort of 100 GB is read once and not at every start."""

import hashlib
import os
import time
from contextlib import suppress
from pathlib import Path

from rlvo.files import atomic_write, file_sha256
from rlvo.imaging.reading.dicom_headers import list_files

SETTLED_S = 2.0
"""The hash of a file changed more recently is not remembered: it could change again within one tick of the file
system's clock."""


class ContentHashes:
    """SHA-256 (hex) of files and folders, remembered in small files under `memory`.

    A hash is filed under a hash of path, size, times and inode: `memory` holds no path in clear, and processes and
    machines can share it. A changed file is read again even if its modification time was set back, because the time of
    that change itself (ctime) cannot be set.
    """

    def __init__(self, memory: Path) -> None:
        self.memory = memory

    def remembered(self, path: Path) -> str | None:
        """Return what `of` would, or None if `of` would have to read the files. Raises as `of` does."""
        return _read_hash(self.memory / _key(path, *_list_files(path)))

    def of(self, path: Path) -> str:
        """Hash a file's bytes, or the hashes of a folder's files in the order of their names.

        Raises OSError if they are missing or cannot be read, RlvoError if a folder has more than `MAX_FILES` files.
        """
        files, states = _list_files(path)
        known = self.memory / _key(path, files, states)
        if (remembered := _read_hash(known)) is not None:
            return remembered
        hashes = [file_sha256(each) for each in files]
        content = hashlib.sha256("".join(hashes).encode()).hexdigest() if path.is_dir() else hashes[0]
        if all(max(state.st_mtime, state.st_ctime) < time.time() - SETTLED_S for state in states):
            with suppress(OSError):  # a store that cannot be written only costs time
                atomic_write(known, content)
        return content


def _list_files(path: Path) -> tuple[list[Path], list[os.stat_result]]:
    """List the file itself, or a folder's files, and the state of each."""
    files = sorted(each for each in list_files(path, path) if each.is_file()) if path.is_dir() else [path]
    return files, [each.stat() for each in files]


def _key(path: Path, files: list[Path], states: list[os.stat_result]) -> str:
    lines = [str(path.absolute())]
    for file, state in zip(files, states, strict=True):
        lines.append(f"{file.name} {state.st_size} {state.st_mtime_ns} {state.st_ctime_ns} {state.st_ino}")
    key = hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()
    return f"{key[:2]}/{key}"


def _read_hash(known: Path) -> str | None:
    """Read a remembered hash; None if there is none."""
    try:
        content = known.read_text()
    except (OSError, UnicodeDecodeError):
        return None
    return content if len(content) == hashlib.sha256().digest_size * 2 else None
