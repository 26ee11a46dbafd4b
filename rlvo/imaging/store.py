"""Prepared volumes on disk: memory-mapped, shared by all trials of a node, addressed by what they were made from."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from rlvo.config.base import content_hash
from rlvo.digits import gigabytes
from rlvo.errors import MachineError, RlvoError
from rlvo.files import file_sha256, parse_json
from rlvo.imaging.content import ContentHashes
from rlvo.imaging.entry_size import entry_bytes
from rlvo.imaging.prepare import Prepared, preparation_key
from rlvo.imaging.reading.source import split_series
from rlvo.imaging.resampling import to_itk_transform
from rlvo.imaging.target import Target

DESCRIPTION = "prepared.json"
UNFINISHED, LEFTOVER_S = ".writing-", 86_400
"""Prefix of folders that are being written, and the age from which they are no longer."""
SCANS, SHORT = ("ncct", "cta"), 16
"""The volumes that are a patient's own: vessel masks may be empty; and how many digits of a hash tell them apart."""
LOCAL_RESERVE = 0.05
"""Share of a node's disk that copies leave free; Ray needs as much for itself."""
PREPARE_AGAIN = "Prepare the cohort again"


class VolumeStore:
    """A folder of prepared patients. An entry is one folder, complete or absent, even after a kill at any moment.

    An entry holds those there are of `ncct.npy`, `cta.npy` (float16, clipped HU) and `vessels.npy` (uint8), [x, y, z];
    `ncct.tfm`, `cta.tfm` for `sitk.ReadTransform` (affine, LPS mm, atlas point to scan point); and `prepared.json` with
    doubts, notes and figures, and with size and SHA-256 of every file.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder.expanduser().resolve()
        self._contents = _contents(self.path)

    def address(self, target: Target, files: Mapping[str, Path | None]) -> str:
        """Hash (SHA-256, hex) the content of a patient's files (`ncct`, `cta`, `vessels`) and the settings.

        Raises RlvoError if a file is missing or cannot be read, or a folder holds too many.
        """
        contents = {role: self._hash_content(path) for role, path in files.items() if path is not None}
        return content_hash({"settings": preparation_key(target), "files": contents})

    def _hash_content(self, path: Path) -> str:
        source, series = split_series(path)
        try:
            content = self._contents.of(source)
        except OSError as error:
            reason = (error.strerror or type(error).__name__).lower()
            fix = "Check the path and its permissions"
            raise RlvoError(f"cannot be read: {reason}", where=path, fix=fix) from None
        return content_hash([content, series]) if series else content

    def scans(self, files: Mapping[str, Path | None], address: str | None = None) -> frozenset[str]:
        """What a patient's NCCT and CTA are recognised by, whatever the patient is called: short hashes (SHA-256, hex).

        They are those of the files' content and, if the entry `address` is here, of the prepared volumes, which are the
        same if only the files' format has changed.

        Raises RlvoError if a file is missing or cannot be read.
        """
        hashes = [self._hash_content(files[role] or Path()) for role in SCANS if files.get(role) is not None]
        if address is not None and self.has(address):
            described = _read_entry(self.folder(address))["files"]
            hashes += [described[name]["sha256"] for role in SCANS if (name := f"{role}.npy") in described]
        return frozenset(each[:SHORT] for each in hashes)

    def folder(self, address: str) -> Path:
        """Return the folder of an entry."""
        return self.path / address[:2] / address

    def transform_path(self, address: str, role: str) -> Path:
        """Return the file of a transform (`ncct`, `cta`), atlas point to scan point."""
        return self.folder(address) / f"{role}.tfm"

    def has(self, address: str) -> bool:
        """Whether the entry exists and all its files have their size."""
        return _is_complete(self.folder(address))

    def verify(self, address: str) -> bool:
        """Whether the entry exists and its files match their checksums; they are read again only after a change."""
        return _is_intact(self.folder(address), self._contents.of)

    def put(self, address: str, prepared: Prepared, *, seconds: float) -> None:
        """Write an entry, flushed to disk, replacing a damaged one. If two processes write the same entry, one wins.

        `seconds`: duration of the preparation. Raises MachineError if the store cannot be written.
        """
        try:
            with _writing(self.folder(address)) as folder:
                for role, matrix in prepared.transforms.items():
                    sitk.WriteTransform(to_itk_transform(matrix), str(folder / f"{role}.tfm"))
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
                text = json.dumps(description | {"sha256": _hash_description(description)}, indent=1)
                (folder / DESCRIPTION).write_text(text)
        except OSError as error:
            raise MachineError(f"cannot write the store: {error.strerror or error}", where=self.path) from None

    def discard(self, address: str) -> None:
        """Remove an entry, if it is there. Volumes that are open stay readable."""
        folder = self.folder(address)
        removed = folder.with_name(f"{UNFINISHED}{uuid.uuid4().hex}")
        with suppress(FileNotFoundError):
            folder.rename(removed)
            shutil.rmtree(removed, ignore_errors=True)

    def read(self, address: str) -> Prepared:
        """Read the entry as it was put; volumes are memory maps. Raises MachineError if it is missing or damaged."""
        description = _read_entry(self.folder(address))
        return Prepared(
            dict(open_volumes(self.folder(address))),
            tuple(description["doubts"]),
            tuple(description["notes"]),
            description["figures"],
            {role: np.array(matrix) for role, matrix in description["transforms"].items()},
        )

    def seconds(self, address: str) -> float:
        """Return the duration of its preparation."""
        return float(_read_entry(self.folder(address))["seconds"])

    def check_space(self, target: Target, rows: Iterable[Mapping[str, Path | None]], *, reserved: int = 0) -> None:
        """Raise MachineError if the disk cannot hold the entries of those of the patients that are not here yet.

        Args:
            reserved: bytes that will be needed besides, for checkpoints.
        """
        patients = sum(not self._is_known(target, files) for files in rows)
        existing = next(folder for folder in (self.path, *self.path.parents) if folder.exists())
        needed, free = patients * entry_bytes(target.grid), shutil.disk_usage(existing).free
        if needed and needed + reserved > free:
            need, besides, has = gigabytes(needed, reserved, free)
            what = f"{patients} patient(s) need {need}{f', checkpoints {besides}' if reserved else ''}, "
            what += f"but only {has} are free"
            raise MachineError(what, where=self.path, fix="Free some space, or put the store on a larger disk")

    def _is_known(self, target: Target, files: Mapping[str, Path | None]) -> bool:
        """Whether the entry is here, as far as is known without reading the patient's files."""
        try:
            places = [split_series(path)[0] for path in files.values() if path is not None]
            remembered = all(self._contents.remembered(place) is not None for place in places)
            return remembered and self.has(self.address(target, files))
        except (OSError, RlvoError):
            return False

    def remove_leftovers(self) -> None:
        """Remove what killed writers left behind."""
        for folder in self.path.glob(f"*/{UNFINISHED}*"):
            with suppress(FileNotFoundError):
                if time.time() - folder.stat().st_mtime > LEFTOVER_S:
                    shutil.rmtree(folder, ignore_errors=True)


def open_volumes(folder: Path) -> dict[str, np.memmap]:
    """Open the volumes of one entry's folder as read-only memory maps, by name."""
    return {path.stem: np.load(path, mmap_mode="r", allow_pickle=False) for path in sorted(folder.glob("*.npy"))}


def is_as_prepared(volume: Path) -> bool:
    """Whether a volume's file matches its checksum; it is read again only after a change.

    A file that no entry of a store describes is taken as it is. Raises MachineError if the description is damaged,
    OSError if the file is missing.
    """
    folder = volume.parent
    if not (folder / DESCRIPTION).exists():
        return True
    described = _read_entry(folder)["files"].get(volume.name)
    return described is not None and _contents(folder.parents[1]).of(volume) == described["sha256"]


def local_copy(folder: Path, local: Path) -> Path:
    """Return the entry of `folder` (on shared storage) in the store `local` (on this node's disk), copied on first use.

    Processes of the node may ask at the same time: one copies, the others wait. A copy is compared with its checksums,
    again after a change, and then made anew.
    If `local` has no room or cannot be written, return `folder` itself, with a Python warning: that only costs time.
    Raises MachineError if the entry is missing or damaged.
    """
    local = local.expanduser().resolve()
    copy, hash_file = local / folder.parent.name / folder.name, _contents(local).of
    if _is_intact(copy, hash_file):
        return copy
    files = _read_entry(folder)["files"]
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
        with _opened(copy.parent) as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)  # of the node's processes one copies; a killed one releases it
            if not _is_intact(copy, hash_file):
                disk, needed = shutil.disk_usage(copy.parent), sum(file["bytes"] for file in files.values())
                if disk.free - needed < LOCAL_RESERVE * disk.total:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                with _writing(copy) as writing:
                    for name in (*files, DESCRIPTION):
                        shutil.copyfile(folder / name, writing / name)
                    if not _is_intact(writing):
                        raise MachineError("this entry of the store is damaged", where=folder, fix=PREPARE_AGAIN)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        warnings.warn(f"no copies in {local} ({reason}): reading the shared store", RuntimeWarning, stacklevel=2)
        return folder
    return copy


def _contents(store: Path) -> ContentHashes:
    return ContentHashes(store / ".contents")


def _read_entry(folder: Path) -> dict[str, Any]:
    """Read an entry's description. Raises MachineError if it is missing or damaged."""
    try:
        description = dict(parse_json((folder / DESCRIPTION).read_text()))
    except (OSError, ValueError, TypeError):
        description = {}
    if description.pop("sha256", None) != _hash_description(description):
        raise MachineError("this entry of the store is missing or damaged", where=folder, fix=PREPARE_AGAIN)
    return description


def _hash_description(description: Mapping[str, Any]) -> str:
    """Hash the description itself; figures may be NaN."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def _is_complete(folder: Path) -> bool:
    """Whether all files of an entry exist and have their size."""
    try:
        files = _read_entry(folder)["files"]
        return all((folder / name).stat().st_size == file["bytes"] for name, file in files.items())
    except (MachineError, OSError):
        return False


def _is_intact(folder: Path, hash_file: Callable[[Path], str] = file_sha256) -> bool:
    """Whether all files of an entry match their checksums."""
    return _is_complete(folder) and all(
        hash_file(folder / name) == file["sha256"] for name, file in _read_entry(folder)["files"].items()
    )


@contextmanager
def _writing(target: Path) -> Iterator[Path]:
    """Give a folder to write an entry to, which becomes `target` at the end, complete and on disk, or is removed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=UNFINISHED, ignore_cleanup_errors=True) as temporary:
        writing, damaged = Path(temporary, "new"), Path(temporary, "damaged")
        writing.mkdir()
        yield writing
        for path in (*writing.iterdir(), writing):
            with _opened(path) as handle:
                os.fsync(handle)
        if target.exists() and not _is_intact(target):
            target.rename(damaged)
        try:
            writing.rename(target)
        except OSError:
            if not _is_complete(target):
                raise
        with _opened(target.parent) as handle:
            os.fsync(handle)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Give the descriptor of a file or folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        yield handle
    finally:
        os.close(handle)
