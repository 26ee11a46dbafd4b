"""`rlvo ui`: a real MLflow server, its UI in a real browser, and that nothing of it stays behind."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from support.commands import refused
from support.processes import free_port, listens, wait_until
from support.study_on_disk import CTA, NCCT, StudyOnDisk

from rlvo.tracking.study_items import run_name
from rlvo.workflows.ui import HOST, PORT, choose_port

ROOT = Path(__file__).parents[2]
HERE = {**os.environ, "PYTHONPATH": str(ROOT)}


def test_without_a_database_there_is_nothing_to_show(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        assert f"{folder}: there is no mlflow.db here" in refused("ui", "--workdir", folder)
    assert not (tmp_path / "missing").exists()


@pytest.mark.slow
def test_the_start_script_does_what_the_command_does(tmp_path: Path) -> None:
    done = subprocess.run([ROOT / "mlflow" / "ui.sh", tmp_path, "5001"], env=HERE, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {tmp_path}: there is no mlflow.db here")


def test_a_taken_port_is_replaced_unless_it_was_named(on_disk: StudyOnDisk) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"port {port} cannot be used here" in refused("ui", "--workdir", on_disk.workdir, "--port", port)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("rlvo.workflows.ui.PORT", port)
            assert choose_port() != port
    assert choose_port(port) == port
    assert PORT == 5000


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
def test_the_ui_opens_the_trials_best_first_and_ends_with_all_its_processes(
    on_disk: StudyOnDisk, tmp_path: Path, ending: signal.Signals
) -> None:
    on_disk.end_all(NCCT, CTA)
    assert on_disk.mirror().close() is None
    port, said = free_port(), tmp_path / "said"
    command = [sys.executable, "-m", "rlvo.cli.main", "ui", "--workdir", on_disk.workdir, "--port", str(port)]
    with said.open("w") as log:
        started = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)
    try:
        wait_until(lambda: "Ctrl-C ends it" in said.read_text(), started)
        if ending == signal.SIGTERM and shutil.which("chromium") is not None:
            check_pages(on_disk, said.read_text(), tmp_path)
    finally:
        family = psutil.Process(started.pid).children(recursive=True)
        started.send_signal(ending)
    assert started.wait(30) == (-ending if ending == signal.SIGKILL else 0)
    assert len(family) > 1
    assert psutil.wait_procs(family, timeout=30)[1] == []
    assert not listens(port)
    assert "Traceback" not in said.read_text()


def check_pages(on_disk: StudyOnDisk, said: str, folder: Path) -> None:
    """In a browser, the links show the trials, best first, and all of them in parallel coordinates."""
    links = dict(re.findall(r"^  (\w+): (http\S+)$", said, flags=re.MULTILINE))
    trials = sorted(on_disk.runs("trial"), key=lambda run: -run.data.metrics["best/auc"])
    names = [run.info.run_name for run in trials]
    shown = seen(links["trials"], folder, lambda page: all(name in page for name in names))
    assert re.findall(r">((?:NCCT|CTA) [^<]*, fold \d, \w+)<", shown) == names
    assert run_name(NCCT) not in re.findall(r">([^<>]+)<", shown)
    assert "best/sensitivity" in shown
    shown = seen(links["compared"], folder, lambda page: "Parallel Coordinates" in page)
    assert "Showing all runs" in shown


def seen(page: str, folder: Path, is_there: object) -> str:
    """The page as the browser has drawn it, once it is there."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,900", "--virtual-time-budget=20000"]
    for attempt in range(5):
        command = ["chromium", *flags, f"--user-data-dir={folder / f'profile-{attempt}'}", "--dump-dom", page]
        drawn = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
        if is_there(drawn):  # type: ignore[operator]
            break
        time.sleep(1)
    return drawn
