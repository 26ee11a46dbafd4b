"""A file is whole or not there, whatever happens while it is written."""

import hashlib
import os
from pathlib import Path

import pytest

from rlvo.files import atomic_write, file_sha256


def test_a_failed_write_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "record.json"
    atomic_write(path, "old")

    def full(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        atomic_write(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_hash_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    atomic_write(path, b"\x00\x01")
    assert file_sha256(path) == hashlib.sha256(b"\x00\x01").hexdigest()
