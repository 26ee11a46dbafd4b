"""The store: whole entries or none, addressed by content, checked by checksums, copied to the node."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from support.heads import head_on, rigid

from rlvo.config.grid import PRESETS, Grid, over_field_of_view
from rlvo.errors import MachineError, RlvoError
from rlvo.imaging import content
from rlvo.imaging import store as module
from rlvo.imaging.cohort_preparation import prepare_cohort
from rlvo.imaging.entry_size import entry_bytes
from rlvo.imaging.prepare import Prepared
from rlvo.imaging.store import VolumeStore, is_as_prepared, local_copy, open_volumes
from rlvo.imaging.target import Target

TARGET = Target(grid="focus")
TURN = rigid(1, [0.3, -0.2, 0.1], [12.5, -3.25, 40]) @ np.diag([1.1, 1.1, 1.1, 1])
PREPARED = Prepared(
    {
        "ncct": np.arange(24, dtype=np.float16).reshape(2, 3, 4),
        "cta": np.arange(24, 48, dtype=np.float16).reshape(2, 3, 4),
        "vessels": np.eye(3, dtype=np.uint8)[None],
    },
    ("one doubt",),
    ("one note",),
    {"cta/coverage": 0.875, "cta/other": float("nan")},
    {"ncct": np.eye(4), "cta": TURN},
)
FILES = ["cta.npy", "cta.tfm", "ncct.npy", "ncct.tfm", "prepared.json", "vessels.npy"]


@pytest.fixture
def store(tmp_path: Path) -> VolumeStore:
    """A store with one entry, `ab12`."""
    store = VolumeStore(tmp_path / "store")
    store.put("ab12", PREPARED, seconds=12.5)
    return store


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_put_comes_back_as_read_only_memory_maps(store: VolumeStore) -> None:
    assert not store.has("cd34")
    assert not store.verify("cd34")
    assert store.has("ab12")
    assert store.verify("ab12")
    back = store.read("ab12")
    assert set(back.volumes) == {"ncct", "cta", "vessels"}
    for name, volume in back.volumes.items():
        assert isinstance(volume, np.memmap)
        assert not volume.flags.writeable
        assert volume.dtype == PREPARED.volumes[name].dtype
        np.testing.assert_array_equal(volume, PREPARED.volumes[name])
    assert (back.doubts, back.notes) == (PREPARED.doubts, PREPARED.notes)
    np.testing.assert_equal(dict(back.figures), dict(PREPARED.figures))
    np.testing.assert_array_equal(back.transforms["cta"], TURN)
    assert back.warnings == ("one doubt", "one note")
    assert store.seconds("ab12") == 12.5
    store.put("ab12", PREPARED, seconds=1)
    assert names(store.folder("ab12").parent) == ["ab12"]
    assert names(store.folder("ab12")) == FILES
    description = json.loads((store.folder("ab12") / "prepared.json").read_text())
    assert set(description) == {"doubts", "notes", "figures", "transforms", "seconds", "files", "sha256"}
    assert sorted(description["files"]) == [name for name in FILES if name != "prepared.json"]


def test_itk_reads_the_transforms(store: VolumeStore) -> None:
    atlas_point = np.array([10.0, -20.0, 30.0])
    scan_point = TURN[:3, :3] @ atlas_point + TURN[:3, 3]
    lps = np.array([-1, -1, 1])
    transform = sitk.ReadTransform(str(store.transform_path("ab12", "cta")))
    np.testing.assert_allclose(transform.TransformPoint((atlas_point * lps).tolist()), scan_point * lps, rtol=1e-12)


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
    one, two = (store.address(TARGET, {"ncct": Path(f"{folder}#1.2.{number}")}) for number in (3, 4))
    assert one != two
    assert one == store.address(TARGET, {"ncct": Path(f"{folder}#1.2.3")})
    with pytest.raises(RlvoError, match="cannot be read: no such file"):
        store.address(TARGET, {"ncct": tmp_path / "none.nii"})


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_a_damaged_entry_is_noticed_and_replaced(name: str, harm: str, store: VolumeStore) -> None:
    before = store.read("ab12").volumes["ncct"]
    path = store.folder("ab12") / name
    data = bytearray(path.read_bytes())
    data[-30] ^= 1
    if harm == "remove":
        path.unlink()
    else:
        path.write_bytes(data if harm == "flip" else data[:-1])
    assert not store.verify("ab12")
    assert store.has("ab12") == (harm == "flip" and name != "prepared.json")
    store.put("ab12", PREPARED, seconds=0)
    assert store.verify("ab12")
    assert names(store.folder("ab12").parent) == ["ab12"]
    if not (name == "ncct.npy" and harm == "cut"):
        assert before.shape == (2, 3, 4), "a reader who has it open keeps it"


def test_of_many_writers_of_one_entry_one_wins(tmp_path: Path) -> None:
    store = VolumeStore(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: store.put("ab12", PREPARED, seconds=0), range(24)))
    assert store.verify("ab12")
    assert names(store.folder("ab12").parent) == ["ab12"]


def test_what_killed_writers_left_is_removed_after_a_day(store: VolumeStore) -> None:
    left, writing = (store.path / "ab" / f".writing-{name}" for name in ("left", "now"))
    for folder in (left, writing):
        folder.mkdir()
        (folder / "ncct.npy").write_bytes(b"half")
    os.utime(left, (time.time() - 90_000,) * 2)
    store.remove_leftovers()
    assert names(store.path / "ab") == [".writing-now", "ab12"]


PREPARE_COHORT = """
import sys
from pathlib import Path
from rlvo.imaging.cohort_preparation import prepare_cohort
from rlvo.imaging.store import VolumeStore
from rlvo.imaging.target import Target
if __name__ == "__main__":
    rows = {path.stem: {"ncct": path} for path in sorted(Path(sys.argv[1]).glob("*.nii"))}
    prepare_cohort(rows, Target.model_validate_json(sys.argv[3]), VolumeStore(Path(sys.argv[2])), workers=2)
"""


@pytest.mark.slow
def test_preparation_killed_at_random_moments_continues_where_it_was(tmp_path: Path) -> None:
    moments, rng = random.Random(0), np.random.default_rng(0)
    grid = over_field_of_view((98, 116, 94))
    raw, store = tmp_path / "raw", VolumeStore(tmp_path / "store")
    raw.mkdir()
    for number in range(24):
        hu = (head_on(grid) + rng.normal(0, 4, grid.shape)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(hu, grid.affine), raw / f"{number}.nii")
    script = tmp_path / "prepare.py"
    script.write_text(PREPARE_COHORT)
    target = Target(grid=grid)
    arguments = [sys.executable, str(script), str(raw), str(store.path), target.model_dump_json()]
    whole: set[Path] = set()
    for _ in range(2):
        preparation = subprocess.Popen(arguments, start_new_session=True)
        wanted = len(whole) + moments.randint(1, 6)
        while len(set(store.path.glob("*/[!.]*/prepared.json"))) < wanted:
            assert preparation.poll() is None
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.1))
        os.killpg(preparation.pid, signal.SIGKILL)
        preparation.wait()
        found = {path.parent for path in store.path.glob("*/[!.]*/prepared.json")}
        assert found == {path for path in store.path.glob("*/*") if len(path.name) == 64 and path.is_dir()}
        assert found > whole
        assert len(found) < 24
        assert all(store.verify(folder.name) for folder in found)
        whole = found
    written = {folder: (folder / "ncct.npy").stat().st_mtime_ns for folder in whole}
    rows = {path.stem: {"ncct": path} for path in raw.glob("*.nii")}
    result = prepare_cohort(rows, target, store, workers=1)
    assert len(result.prepared) == 24
    assert {folder: (folder / "ncct.npy").stat().st_mtime_ns for folder in whole} == written
    for patient, each in result.prepared.items():
        assert store.verify(each.address)
        expected = np.asarray(nibabel.load(raw / f"{patient}.nii").dataobj)
        np.testing.assert_array_equal(store.read(each.address).volumes["ncct"], expected.clip(0, 100))


def test_a_store_that_cannot_be_written_is_the_machines_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match="cannot write the store: Not a directory"):
        VolumeStore(tmp_path / "file").put("ab12", PREPARED, seconds=0)
    large = Prepared({"ncct": np.zeros((64, 64, 64), dtype=np.float16)})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 10, hard))  # what a full disk does: the write ends early
    try:
        with pytest.raises(MachineError, match="cannot write the store: "):
            VolumeStore(tmp_path / "full").put("ab12", large, seconds=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((tmp_path / "full" / "ab").iterdir())
    with pytest.raises(MachineError, match="missing or damaged"):
        VolumeStore(tmp_path / "full").read("ab12")


@pytest.mark.parametrize("grid", [PRESETS["focus"], over_field_of_view((98, 116, 94))])
def test_sizes_are_known_before(grid: Grid, tmp_path: Path) -> None:
    store = VolumeStore(tmp_path / "store")
    volumes = {name: np.ones(grid.shape, dtype=np.float16) for name in ("ncct", "cta")}
    store.put("ab12", Prepared(volumes | {"vessels": np.ones(grid.shape, dtype=np.uint8)}), seconds=0)
    used = sum(512 * path.stat().st_blocks for path in store.folder("ab12").iterdir())
    assert used <= entry_bytes(grid) <= used + (64 << 10)


def test_a_disk_too_small_is_reported_before_work_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "SETTLED_S", 0.0)
    VolumeStore(tmp_path / "none" / "yet").check_space(Target(grid="paper"), [{"ncct": tmp_path / "1.nii"}] * 20)
    store, huge = VolumeStore(tmp_path / "store"), Target(grid=over_field_of_view((4000, 4000, 4000)))
    with pytest.raises(MachineError, match=r"20 patient\(s\) need [\d.]+ GB, but only [\d.]+ GB are free"):
        store.check_space(huge, [{"ncct": tmp_path / "1.nii"}] * 20)
    few, free = [{"ncct": tmp_path / "1.nii"}], shutil.disk_usage(tmp_path).free
    store.check_space(Target(grid="focus"), few)
    with pytest.raises(MachineError, match=r"1 patient\(s\) need [\d.]+ GB, checkpoints [\d.]+ GB, but only"):
        store.check_space(Target(grid="focus"), few, reserved=2 * free)  # each alone has room for one of them
    path = tmp_path / "ct.nii"
    path.write_bytes(b"content")
    store.put(store.address(huge, {"ncct": path}), PREPARED, seconds=0)
    store.check_space(huge, [{"ncct": path}])  # what is in the store needs no more room
    with pytest.raises(MachineError, match=r"1 patient\(s\) need"):
        store.check_space(huge, [{"ncct": path}, {"ncct": tmp_path / "other.nii"}])


def test_a_node_copies_an_entry_once(store: VolumeStore, tmp_path: Path) -> None:
    local = tmp_path / "local"
    with ThreadPoolExecutor(8) as pool:
        (copy,) = set(pool.map(lambda _: local_copy(store.folder("ab12"), local), range(24)))
    assert copy == VolumeStore(local).folder("ab12")
    assert VolumeStore(local).verify("ab12")
    assert names(copy.parent) == ["ab12"]
    shutil.rmtree(store.path)
    assert local_copy(store.folder("ab12"), local) == copy
    np.testing.assert_array_equal(open_volumes(copy)["cta"], PREPARED.volumes["cta"])
    with pytest.raises(MachineError, match="missing or damaged"):
        local_copy(store.folder("cd34"), local)


def test_a_copy_that_has_changed_is_made_anew(store: VolumeStore, tmp_path: Path) -> None:
    volume = local_copy(store.folder("ab12"), tmp_path / "local") / "cta.npy"
    volume.write_bytes(volume.read_bytes()[:-1] + b"x")
    assert not is_as_prepared(volume)
    assert local_copy(store.folder("ab12"), tmp_path / "local") == volume.parent
    assert is_as_prepared(volume)
    np.testing.assert_array_equal(open_volumes(volume.parent)["cta"], PREPARED.volumes["cta"])


def test_a_damaged_entry_is_not_copied(store: VolumeStore, tmp_path: Path) -> None:
    path = store.folder("ab12") / "cta.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(MachineError, match="entry of the store is damaged"):
        local_copy(store.folder("ab12"), tmp_path / "local")
    assert not names(tmp_path / "local" / "ab")


@pytest.mark.parametrize("fault", ["full", "no folder"])
def test_without_room_on_the_node_the_shared_store_is_read(
    fault: str, store: VolumeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = tmp_path / "local"
    if fault == "full":
        monkeypatch.setattr(module, "LOCAL_RESERVE", 1.0)
    else:
        local.write_text("")
    with pytest.warns(RuntimeWarning, match="no space left" if fault == "full" else "no copies in"):
        assert local_copy(store.folder("ab12"), local) == store.folder("ab12")
    assert not local.is_dir() or not list(local.glob("*/*"))
