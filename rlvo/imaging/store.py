"""Prepared volumes on disk: memory-mapped, shared by all trials of a node, addressed by what they were made from."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from rlvo.config.base import content_hash
from rlvo.errors import MachineError, RlvoError
from rlvo.files import file_sha256
from rlvo.imaging.prepare import Prepared, preparation_key
from rlvo.imaging.target import Target

DESCRIPTION = "prepared.json"
UNFINISHED = ".writing-"


class VolumeStore:
    """A folder of prepared patients. An entry is one folder, whole or not there, also after a kill at any moment.

    An entry holds `ncct.npy`, `cta.npy` (float16, clipped HU), `vessels.npy` (uint8) where given, and `prepared.json`.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder.expanduser().resolve()

    def address(self, target: Target, files: Mapping[str, Path | None]) -> str:
        """SHA-256 (hex) over the content of a patient's files (`ncct`, `cta`, `vessels`) and the settings.

        Raises:
            RlvoError: a file that is not there or cannot be read.
        """
        contents = {role: _content(path) for role, path in files.items() if path is not None}
        return content_hash({"settings": preparation_key(target), "files": contents})

    def folder(self, address: str) -> Path:
        """Where the entry lies."""
        return self.path / address[:2] / address

    def has(self, address: str) -> bool:
        """Whether the entry is there; entries are complete or absent."""
        return (self.folder(address) / DESCRIPTION).is_file()

    def put(self, address: str, prepared: Prepared) -> None:
        """Write an entry: into a folder beside, flushed to disk, then renamed. Of two writers of the same one wins."""
        target = self.folder(address)
        description = {
            "doubts": prepared.doubts,
            "notes": prepared.notes,
            "figures": prepared.figures,
            "transforms": {role: matrix.tolist() for role, matrix in prepared.transforms.items()},
        }
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=UNFINISHED))
            try:
                for name, array in prepared.volumes.items():
                    with (temporary / f"{name}.npy").open("wb") as file:
                        np.save(file, array, allow_pickle=False)
                        file.flush()
                        os.fsync(file.fileno())
                with (temporary / DESCRIPTION).open("w") as text:
                    json.dump(description, text)
                    text.flush()
                    os.fsync(text.fileno())
                temporary.chmod(0o755)
                if not self.has(address):
                    temporary.rename(target)
                    _flush_folder(target.parent)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        except OSError as error:
            if not self.has(address):
                raise MachineError(f"cannot write the store: {error.strerror}", where=self.path) from None

    def remove_leftovers(self, older_than_s: float = 86_400) -> None:
        """Remove what killed writers left behind; younger folders may belong to a writer at work."""
        for folder in self.path.glob(f"*/{UNFINISHED}*"):
            with suppress(FileNotFoundError):
                if time.time() - folder.stat().st_mtime > older_than_s:
                    shutil.rmtree(folder, ignore_errors=True)

    def open(self, address: str) -> dict[str, np.memmap]:
        """The entry's volumes as read-only memory maps."""
        return open_volumes(self.folder(address))

    def read(self, address: str) -> Prepared:
        """The entry as it was put; volumes are memory maps."""
        description = json.loads((self.folder(address) / DESCRIPTION).read_text())
        return Prepared(
            dict(self.open(address)),
            tuple(description["doubts"]),
            tuple(description["notes"]),
            description["figures"],
            {role: np.array(matrix) for role, matrix in description["transforms"].items()},
        )

    def warnings(self, address: str) -> tuple[str, ...]:
        """What the user should know about the entry."""
        return self.read(address).warnings


def open_volumes(folder: Path) -> dict[str, np.memmap]:
    """The volumes of one entry's folder as read-only memory maps, by name."""
    return {path.stem: np.load(path, mmap_mode="r", allow_pickle=False) for path in sorted(folder.glob("*.npy"))}


def _content(path: Path) -> str:
    """SHA-256 over a file's bytes, or over those of a folder's files in the order of their names."""
    try:
        if not path.is_dir():
            return file_sha256(path)
        parts = "".join(file_sha256(each) for each in sorted(path.rglob("*")) if each.is_file())
        return hashlib.sha256(parts.encode()).hexdigest()
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise RlvoError(f"cannot be read: {reason}", where=path, fix="Check the path and its permissions") from None


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
