"""What a machine does to a search: it ends in one line or goes on, and in the end nothing is lost or doubled."""

import contextlib
import resource
import shutil
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import support
from mlflow import MlflowClient
from support.processes import free_port
from support.victim import EPOCH_COUNT, Victim, check_whole, is_training, wait_for

from rlvo.config.loading import load_study
from rlvo.config.workdir import Workdir
from rlvo.progress import no_progress
from rlvo.study.inputs import open_study
from rlvo.training.records import RECORD

pytestmark = pytest.mark.timeout(1800)

STOPPED = 60.0
"""Seconds."""
BACK = 3600
"""Seconds by which the clock is set back."""
SMALL_MEMORY = 'mount -t tmpfs -o size=64m tmpfs /dev/shm && exec "$@"'
FEW_FILES = 256

ReadOnly = Callable[[Path], contextlib.AbstractContextManager[None]]


@pytest.fixture
def read_only() -> ReadOnly:
    """Makes a folder read-only for the length of a context, for root too; files that are open for writing stay so."""

    @contextlib.contextmanager
    def mounted(folder: Path) -> Iterator[None]:
        done = subprocess.run(["mount", "--bind", folder, folder], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
        try:
            subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
            yield
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)

    return mounted


def workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Its processes that train."""
    return [child for child in psutil.Process(process.pid).children(recursive=True) if is_training(child)]


def last_line(said: str) -> str:
    assert "Traceback" not in said, said
    return said.splitlines()[-1]


def test_the_studys_folder_becomes_read_only(undisturbed: Victim, read_only: ReadOnly, tmp_path: Path) -> None:
    victim = undisturbed.beside(tmp_path)
    process = victim.start()
    wait_for(lambda: victim.epoch_count() >= EPOCH_COUNT, process)
    with read_only(victim.folder):
        code, said = victim.wait(process)
        before = victim.epochs()
    assert code == 1
    assert last_line(said).startswith(f"error: {victim.folder}"), said
    assert "any more (Read-only file system). Restore access" in last_line(said)
    victim.finish()
    assert all(victim.epochs()[trial][: len(lines)] == lines for trial, lines in before.items())
    check_whole(victim, undisturbed)


def test_a_cluster_that_is_gone(undisturbed: Victim, tmp_path: Path) -> None:
    victim, address = undisturbed.beside(tmp_path, copied=True), f"127.0.0.1:{free_port()}"
    next(victim.folder.glob(f"trials/*/fold-1/{RECORD}")).unlink()  # one trial is left to run
    ended, epochs = victim.ended(), victim.epochs()
    code, said = victim.wait(victim.start(environment={"RAY_ADDRESS": address}))
    assert code == 1
    assert last_line(said) == (
        f"error: {address}: no Ray cluster answers ([Errno 111] Connection refused). Check --address or RAY_ADDRESS"
    )
    assert (victim.ended(), victim.epochs()) == (ended, epochs)


@pytest.mark.parametrize("how", ["overwritten", "cut"])
def test_a_volume_is_damaged(undisturbed: Victim, tmp_path: Path, how: str) -> None:
    victim = undisturbed.beside(tmp_path)
    (victim.work / "store").unlink()
    shutil.copytree(undisturbed.work / "store", victim.work / "store")
    study, work = load_study(victim.root / "victim.yaml"), Workdir.at(victim.work)
    inputs = open_study(study, victim.cohort / "cohort.csv", work, progress=no_progress, workers=1)
    patient = inputs.split.folds[0][0]  # every trial trains on it, or is validated with it
    volume = inputs.volumes[patient] / "ncct.npy"
    sound = volume.read_bytes()
    process = victim.start()
    wait_for(lambda: victim.epoch_count() >= EPOCH_COUNT, process)
    before = victim.epochs()
    with volume.open("r+b") as file:
        file.seek(len(sound) // 2)
        if how == "cut":  # whoever reads what it has mapped of it dies
            file.truncate()
        else:
            file.write(bytes(1000))
    assert volume.read_bytes() != sound
    code, said = victim.wait(process)
    assert code == 2, said
    assert last_line(said).startswith(f"error: patient {patient}: damaged volume in the store. "), said
    victim.finish()
    assert volume.read_bytes() == sound
    assert all(victim.epochs()[trial][: len(lines)] == lines for trial, lines in before.items())
    check_whole(victim, undisturbed)


def test_a_worker_stands_still(undisturbed: Victim, tmp_path: Path) -> None:
    victim = undisturbed.beside(tmp_path)
    process = victim.start()
    wait_for(lambda: victim.epoch_count() >= EPOCH_COUNT // 2, process)
    worker = workers(process)[0]
    worker.suspend()
    time.sleep(STOPPED)
    assert worker.status() == psutil.STATUS_STOPPED  # nobody has ended it, or let it go on
    assert process.poll() is None
    worker.resume()
    code, said = victim.wait(process)
    assert code == 0, said
    assert "Traceback" not in said
    check_whole(victim, undisturbed)


@pytest.fixture
def preloaded(tmp_path: Path) -> Path:
    """The library that sets the clock of whoever loads it."""
    source, library = Path(support.__path__[0], "clock.c"), tmp_path / "clock.so"
    if (compiler := shutil.which("cc")) is None:
        pytest.skip("no C compiler is here")
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", library, source, "-ldl"], check=True)
    return library


def test_the_clock_is_set_back(undisturbed: Victim, preloaded: Path, tmp_path: Path) -> None:
    victim, offset, started = undisturbed.beside(tmp_path), tmp_path / "offset", time.time()
    offset.write_bytes(struct.pack("q", 0))
    environment = {"LD_PRELOAD": str(preloaded), "CLOCK_OFFSET": str(offset), "RAY_LD_PRELOAD_ON_WORKERS": "1"}
    process = victim.start(environment=environment)
    wait_for(lambda: victim.epoch_count() >= EPOCH_COUNT, process)
    for each in (psutil.Process(process.pid), *workers(process)):
        assert any(mapped.path == str(preloaded) for mapped in each.memory_maps())
    with offset.open("r+b") as file:
        file.write(struct.pack("q", -BACK))
    code, said = victim.wait(process)
    assert code == 0, said
    assert "Traceback" not in said
    check_whole(victim, undisturbed)
    client = MlflowClient(victim.database)
    experiment = client.get_experiment_by_name(victim.name)
    assert experiment is not None
    ended = [run.info.end_time / 1000 for run in client.search_runs([experiment.experiment_id])]
    assert min(ended) < started - BACK / 2  # it was noticed


def test_little_shared_memory(undisturbed: Victim, tmp_path: Path) -> None:
    through = ("unshare", "--mount", "sh", "-c", SMALL_MEMORY, "sh")
    done = subprocess.run([*through, "true"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    victim = undisturbed.beside(tmp_path)
    process = victim.start(through=through)
    wait_for(lambda: victim.epoch_count() > 0, process)
    for each in workers(process):
        [mounted] = [
            line for line in Path(f"/proc/{each.pid}/mountinfo").read_text().splitlines() if "size=65536k" in line
        ]
        assert " /dev/shm " in mounted
    code, said = victim.wait(process)
    assert code == 0, said
    assert "Traceback" not in said
    check_whole(victim, undisturbed)


def test_few_open_files(undisturbed: Victim, tmp_path: Path) -> None:
    victim = undisturbed.beside(tmp_path)
    process = victim.start(through=("prlimit", f"--nofile={FEW_FILES}:{FEW_FILES}"))
    wait_for(lambda: victim.epoch_count() > 0, process)
    for each in (psutil.Process(process.pid), *workers(process)):
        assert each.rlimit(resource.RLIMIT_NOFILE) == (FEW_FILES, FEW_FILES)
    code, said = victim.wait(process)
    assert code == 0, said
    assert "Traceback" not in said
    check_whole(victim, undisturbed)


def test_no_home(undisturbed: Victim, tmp_path: Path) -> None:
    victim = undisturbed.beside(tmp_path)
    victim.finish(environment={"HOME": "/proc/nobody"})
    check_whole(victim, undisturbed)


def test_two_studies_in_one_new_work_folder(undisturbed: Victim, tmp_path: Path) -> None:
    """They begin at once: both make the store, the database of MLflow, and their experiments in it."""
    victim = Victim(tmp_path, undisturbed.cohort)
    other = Victim(tmp_path, undisturbed.cohort, name="other")
    processes = [each.start() for each in (victim, other)]
    for each, process in zip((victim, other), processes, strict=True):
        code, said = each.wait(process)
        assert code == 0, said
        assert "Traceback" not in said
    check_whole(victim, undisturbed)
    (tmp_path / "alone").mkdir()
    alone = Victim(tmp_path / "alone", undisturbed.cohort, name="other")  # its random numbers depend on the name
    alone.finish()
    check_whole(other, alone)
