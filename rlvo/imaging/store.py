"""Prepared volumes on disk: memory-mapped, shared by all trials of a node, addressed by what they were made from."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import math
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from rlvo.config.base import content_hash
from rlvo.config.grid import Grid
from rlvo.errors import MachineError, RlvoError
from rlvo.files import file_sha256
from rlvo.imaging.content import ContentHashes
from rlvo.imaging.prepare import Prepared, preparation_key
from rlvo.imaging.reading import split_series
from rlvo.imaging.resampling import to_itk
from rlvo.imaging.target import Target

DESCRIPTION = "prepared.json"
UNFINISHED = ".writing-"
BYTES_A_VOXEL = 5
"""NCCT and CTA float16, vessels uint8."""
LOCAL_RESERVE = 0.05
"""Share of a node's disk that copies leave free; Ray wants as much for itself."""
PREPARE_AGAIN = "Prepare the cohort again"


class VolumeStore:
    """A folder of prepared patients. An entry is one folder, whole or not there, also after a kill at any moment.

    An entry holds `ncct.npy`, `cta.npy` (float16, clipped HU) and `vessels.npy` (uint8), [x, y, z], where given;
    `ncct.tfm`, `cta.tfm`, which `sitk.ReadTransform` reads (affine, LPS mm, atlas point to scan point); and
    `prepared.json` with verdict and figures, and with size and SHA-256 of every file.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder.expanduser().resolve()
        self._contents = ContentHashes(self.path / ".contents")

    def address(self, target: Target, files: Mapping[str, Path | None]) -> str:
        """SHA-256 (hex) over the content of a patient's files (`ncct`, `cta`, `vessels`) and the settings.

        Raises:
            RlvoError: a file that is not there or cannot be read, a folder with too many of them.
        """
        contents = {role: self._content(path) for role, path in files.items() if path is not None}
        return content_hash({"settings": preparation_key(target), "files": contents})

    def _content(self, path: Path) -> str:
        source, series = split_series(path)
        try:
            content = self._contents.of(source)
        except OSError as error:
            reason = (error.strerror or type(error).__name__).lower()
            fix = "Check the path and its permissions"
            raise RlvoError(f"cannot be read: {reason}", where=path, fix=fix) from None
        return content_hash([content, series]) if series else content

    def folder(self, address: str) -> Path:
        """Where the entry lies."""
        return self.path / address[:2] / address

    def transform_path(self, address: str, role: str) -> Path:
        """The file of a transform (`ncct`, `cta`), atlas point to scan point."""
        return self.folder(address) / f"{role}.tfm"

    def has(self, address: str) -> bool:
        """Whether the entry is there and every file of it has its size."""
        return _complete(self.folder(address))

    def verify(self, address: str) -> bool:
        """Whether the entry is there and unharmed by its checksums. What was found so is read again once it changes."""
        folder = self.folder(address)
        return _complete(folder) and all(
            self._contents.of(folder / name) == file["sha256"] for name, file in _describe(folder)["files"].items()
        )

    def put(self, address: str, prepared: Prepared, *, seconds: float) -> None:
        """Write an entry, flushed to disk, in place of a damaged one; of two writers of the same one wins.

        Args:
            seconds: what the preparation took.

        Raises:
            MachineError: the store cannot be written.
        """
        try:
            with _written(self.folder(address)) as folder:
                for role, matrix in prepared.transforms.items():
                    sitk.WriteTransform(to_itk(matrix), str(folder / f"{role}.tfm"))
                for name, array in prepared.volumes.items():
                    np.save(folder / f"{name}.npy", array, allow_pickle=False)
                description = {
                    "doubts": prepared.doubts,
                    "notes": prepared.notes,
                    "figures": prepared.figures,
                    "transforms": {role: matrix.tolist() for role, matrix in prepared.transforms.items()},
                    "seconds": seconds,
                    "files": {
                        path.name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
                        for path in sorted(folder.iterdir())
                    },
                }
                text = json.dumps(description | {"sha256": _digest(description)}, indent=1)
                (folder / DESCRIPTION).write_text(text)
        except OSError as error:
            raise MachineError(f"cannot write the store: {error.strerror or error}", where=self.path) from None

    def open(self, address: str) -> dict[str, np.memmap]:
        """The entry's volumes as read-only memory maps."""
        return open_volumes(self.folder(address))

    def read(self, address: str) -> Prepared:
        """The entry as it was put; volumes are memory maps. Raises MachineError where it is not there or damaged."""
        description = _describe(self.folder(address))
        return Prepared(
            dict(self.open(address)),
            tuple(description["doubts"]),
            tuple(description["notes"]),
            description["figures"],
            {role: np.array(matrix) for role, matrix in description["transforms"].items()},
        )

    def seconds(self, address: str) -> float:
        """What its preparation took."""
        return float(_describe(self.folder(address))["seconds"])

    def check_space(self, target: Target, rows: Iterable[Mapping[str, Path | None]]) -> None:
        """Raise MachineError where the disk cannot hold the entries of those patients' files that are not here yet."""
        patients = sum(not self._is_known(target, files) for files in rows)
        there = next(folder for folder in (self.path, *self.path.parents) if folder.exists())
        needed, free = patients * entry_bytes(target.grid), shutil.disk_usage(there).free
        if needed > free:
            what = f"{patients} patient(s) need {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"
            raise MachineError(what, where=self.path, fix="Free space, or put the store on a larger disk")

    def _is_known(self, target: Target, files: Mapping[str, Path | None]) -> bool:
        """Whether the entry is here, as far as can be told without reading the patient's files."""
        try:
            places = [split_series(path)[0] for path in files.values() if path is not None]
            remembered = all(self._contents.remembered(place) is not None for place in places)
            return remembered and self.has(self.address(target, files))
        except (OSError, RlvoError):
            return False

    def remove_leftovers(self, older_than_s: float = 86_400) -> None:
        """Remove what killed writers left behind; younger folders may belong to a writer at work."""
        for folder in self.path.glob(f"*/{UNFINISHED}*"):
            with suppress(FileNotFoundError):
                if time.time() - folder.stat().st_mtime > older_than_s:
                    shutil.rmtree(folder, ignore_errors=True)


def entry_bytes(grid: Grid) -> int:
    """What a patient with NCCT, CTA and vessels takes on disk (files round up to blocks: 64 KiB for all)."""
    return math.prod(grid.shape) * BYTES_A_VOXEL + (64 << 10)


def open_volumes(folder: Path) -> dict[str, np.memmap]:
    """The volumes of one entry's folder as read-only memory maps, by name."""
    return {path.stem: np.load(path, mmap_mode="r", allow_pickle=False) for path in sorted(folder.glob("*.npy"))}


def local_copy(folder: Path, local: Path) -> Path:
    """The entry of `folder` (on shared storage) in the store `local` (on this node's disk), copied on first use.

    Processes of the node may ask at once: one copies, the others wait for it. A copy is checked by its checksums. Where
    `local` has no room or cannot be written, `folder` itself is returned, with a Python warning: that only costs time.

    Raises:
        MachineError: the entry is not there or damaged.
    """
    copy = local.expanduser().resolve() / folder.parent.name / folder.name
    if _complete(copy):
        return copy
    files = _describe(folder)["files"]
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
        with _locked(copy.parent):
            if not _complete(copy):
                _check_reserve(copy.parent, sum(file["bytes"] for file in files.values()))
                with _written(copy) as writing:
                    for name in (*files, DESCRIPTION):
                        shutil.copyfile(folder / name, writing / name)
                    if not _intact(writing):
                        raise MachineError("a damaged entry of the store", where=folder, fix=PREPARE_AGAIN)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        warnings.warn(f"no copies in {local} ({reason}): reading the shared store", RuntimeWarning, stacklevel=2)
        return folder
    return copy


def _check_reserve(folder: Path, needed: int) -> None:
    """Raise OSError where `needed` bytes would all but fill the disk."""
    disk = shutil.disk_usage(folder)
    if disk.free - needed < LOCAL_RESERVE * disk.total:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _describe(folder: Path) -> dict[str, Any]:
    """An entry's description. Raises MachineError where it is not there or damaged."""
    try:
        description = dict(json.loads((folder / DESCRIPTION).read_text()))
    except (OSError, ValueError, TypeError):
        description = {}
    if description.pop("sha256", None) != _digest(description):
        raise MachineError("an entry of the store is not there or damaged", where=folder, fix=PREPARE_AGAIN)
    return description


def _digest(description: Mapping[str, Any]) -> str:
    """Over the description itself; figures may be NaN."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def _complete(folder: Path) -> bool:
    """Whether every file of an entry is there in its size."""
    try:
        files = _describe(folder)["files"]
        return all((folder / name).stat().st_size == file["bytes"] for name, file in files.items())
    except (MachineError, OSError):
        return False


def _intact(folder: Path) -> bool:
    """Whether every file of an entry has its checksum."""
    return _complete(folder) and all(
        file_sha256(folder / name) == file["sha256"] for name, file in _describe(folder)["files"].items()
    )


@contextmanager
def _written(target: Path) -> Iterator[Path]:
    """A folder to write an entry into, which becomes `target` at the end, on disk and whole; removed if that fails."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=UNFINISHED, ignore_cleanup_errors=True) as temporary:
        writing, damaged = Path(temporary, "new"), Path(temporary, "damaged")
        writing.mkdir()
        yield writing
        for path in (*writing.iterdir(), writing):
            _flush(path)
        if target.exists() and not _intact(target):
            target.rename(damaged)
        try:
            writing.rename(target)
        except OSError:
            if not _complete(target):
                raise
        _flush(target.parent)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Alone in `folder` among this node's processes; a killed one lets go."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _flush(path: Path) -> None:
    """Have a file's content, or a folder's names, on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
