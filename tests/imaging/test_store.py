"""The store: whole entries or none, addressed by content."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from rlvo.errors import MachineError
from rlvo.imaging.prepare import Prepared
from rlvo.imaging.store import VolumeStore, open_volumes
from rlvo.imaging.target import Target

TARGET = Target(grid="focus")
PREPARED = Prepared(
    {
        "ncct": np.arange(24, dtype=np.float16).reshape(2, 3, 4),
        "cta": np.arange(24, 48, dtype=np.float16).reshape(2, 3, 4),
        "vessels": np.eye(3, dtype=np.uint8)[None],
    },
    ("one doubt",),
    ("one note",),
    {"cta/coverage": 0.875},
    {"cta": np.diag([1.25, 1, 1, 1])},
)


def test_what_is_put_comes_back_as_read_only_memory_maps(tmp_path: Path) -> None:
    store = VolumeStore(tmp_path / "store")
    assert not store.has("ab12")
    store.put("ab12", PREPARED)
    assert store.has("ab12")
    volumes = store.open("ab12")
    assert set(volumes) == {"ncct", "cta", "vessels"}
    for name, volume in volumes.items():
        assert isinstance(volume, np.memmap)
        assert not volume.flags.writeable
        assert volume.dtype == PREPARED.volumes[name].dtype
        np.testing.assert_array_equal(volume, PREPARED.volumes[name])
    back = store.read("ab12")
    assert (back.doubts, back.notes, back.figures) == (PREPARED.doubts, PREPARED.notes, PREPARED.figures)
    np.testing.assert_array_equal(back.transforms["cta"], PREPARED.transforms["cta"])
    assert (back.verdict, back.registered) == ("review", True)
    assert store.warnings("ab12") == ("one doubt", "one note")
    assert set(open_volumes(store.folder("ab12"))) == set(volumes)
    store.put("ab12", PREPARED)
    assert [path.name for path in store.folder("ab12").parent.iterdir()] == ["ab12"]


def test_address_is_of_content_grid_and_role_not_of_names(tmp_path: Path) -> None:
    store = VolumeStore(tmp_path / "store")
    first, copy, other = tmp_path / "a.nii", tmp_path / "b.nii", tmp_path / "c.nii"
    first.write_bytes(b"content")
    copy.write_bytes(b"content")
    other.write_bytes(b"other")
    address = store.address(TARGET, {"ncct": first, "cta": None})
    assert address == store.address(TARGET, {"ncct": copy})
    different = [
        store.address(TARGET, {"ncct": other}),
        store.address(TARGET, {"cta": first}),
        store.address(TARGET, {"ncct": first, "cta": first}),
        store.address(Target(grid="whole"), {"ncct": first}),
    ]
    assert len({address, *different}) == 5
    folder = tmp_path / "series"
    folder.mkdir()
    (folder / "1.dcm").write_bytes(b"one")
    before = store.address(TARGET, {"ncct": folder})
    (folder / "2.dcm").write_bytes(b"two")
    assert store.address(TARGET, {"ncct": folder}) != before


WRITE_FOR_EVER = """
import sys, numpy as np
from pathlib import Path
from rlvo.imaging.prepare import Prepared
from rlvo.imaging.store import VolumeStore
store = VolumeStore(Path(sys.argv[1]))
prepared = Prepared({name: np.full((60, 60, 60), 7, dtype=np.float16) for name in ("ncct", "cta")})
print("ready", flush=True)
for number in range(10**6):
    store.put(f"{number:08d}", prepared)
"""


def test_killed_at_any_moment_the_store_holds_only_whole_entries(tmp_path: Path) -> None:
    store = VolumeStore(tmp_path)
    writer = subprocess.Popen([sys.executable, "-c", WRITE_FOR_EVER, str(tmp_path)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"ready\n"
    while not store.has("00000002"):
        time.sleep(0.01)
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    entries = [path.name for path in tmp_path.glob("*/*") if not path.name.startswith(".")]
    assert len(entries) >= 3
    for address in entries:
        assert store.has(address)
        assert all((volume == 7).all() for volume in store.open(address).values())
    store.put("00000000x", PREPARED)
    store.remove_leftovers(older_than_s=0)
    assert sorted(path.name for path in tmp_path.glob("*/*")) == sorted(path.name for path in tmp_path.glob("*/[!.]*"))


def test_a_store_that_cannot_be_written_is_the_machines_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match="cannot write the store"):
        VolumeStore(tmp_path / "file").put("ab12", PREPARED)
