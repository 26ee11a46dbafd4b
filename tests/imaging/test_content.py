"""Content hashes: read once, read again after a change, and without names."""

import os
import time
from pathlib import Path

import pytest

from rlvo.errors import RlvoError
from rlvo.imaging import content
from rlvo.imaging.content import ContentHashes
from rlvo.imaging.reading import dicom_headers


def test_contents_are_read_once_and_again_when_they_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = ContentHashes(tmp_path / "memory")
    series = tmp_path / "Doe^Jane"
    series.mkdir()
    for name in ("1.dcm", "2.dcm"):
        (series / name).write_bytes(name.encode())
    first = hashes.of(series)
    assert not hashes.memory.exists(), "just written: not remembered yet"
    monkeypatch.setattr(content, "SETTLED_S", 0.0)
    time.sleep(0.02)
    assert hashes.of(series) == first
    (known,) = (path for path in hashes.memory.rglob("*") if path.is_file())
    known.write_text("0" * 64)
    assert hashes.of(series) == "0" * 64, "remembered"
    assert "Doe" not in str(known.relative_to(tmp_path))
    known.write_text("cut")
    assert hashes.of(series) == first
    state = (series / "2.dcm").stat()
    (series / "2.dcm").write_bytes(b"other")
    os.utime(series / "2.dcm", ns=(state.st_atime_ns, state.st_mtime_ns))
    assert hashes.of(series) != first
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "CT").symlink_to(series)
    assert hashes.of(tmp_path / "study") == hashes.of(series), "links to folders are followed"
    monkeypatch.setattr(dicom_headers, "MAX_FILES", 1)
    with pytest.raises(RlvoError, match="the folder holds more than"):
        hashes.of(series)
