"""What a machine does to a search: it ends in one line or goes on, and in the end nothing is lost or doubled."""

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.processes import free_port
from support.victim import EPOCH_COUNT, Victim, check_whole, wait_for

from rlvo.training.records import RECORD

pytestmark = pytest.mark.timeout(1800)

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
