"""Three newcomers' pages are run block by block, as they stand, in fresh environments made from the wheel.

Nothing is downloaded: the packages that rlvo needs are those of the tests, which the new environments see through a
folder of links. rlvo itself is not among them.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
from support.distribution import ROOT, build
from support.documents import Block, blocks

from rlvo.about import NOTICE, code_version

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
Travel = Callable[..., tuple[Path, str]]


def as_shell(block: Block) -> str:
    """A block in one script with those before it, as if pasted into the same terminal."""
    text = block.text if block.language == "sh" else f"python <<'END_OF_BLOCK'\n{block.text}END_OF_BLOCK\n"
    return f"echo '@ {block.place}'\n{text}"


@pytest.fixture(scope="module")
def travel(tmp_path_factory: pytest.TempPathFactory) -> Travel:
    """Runs a page's blocks in a new folder that holds the wheel and given files; returns it and what was printed."""
    wheel = build(tmp_path_factory.mktemp("dist"))
    around = tmp_path_factory.mktemp("around")
    (around / "packages").mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if "rlvo" not in path.name:
            (around / "packages" / path.name).symlink_to(path)
    (around / "bin").mkdir()
    (around / "bin" / "python3").symlink_to(os.path.realpath(sys.executable))
    environment = {
        "PATH": f"{around / 'bin'}:/usr/bin:/bin",
        "HOME": str(around),
        "PYTHONPATH": str(around / "packages"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PIP_NO_INDEX": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "OMP_NUM_THREADS": "1",
    }

    def run(page: str, *given: Path) -> tuple[Path, str]:
        desk = tmp_path_factory.mktemp(page)
        for file in (wheel, *given):
            shutil.copy(file, desk)
        script = desk / "journey.sh"
        script.write_text("\n".join(["set -euo pipefail", *map(as_shell, blocks(ROOT / f"docs/journeys/{page}.md"))]))
        done = subprocess.run(
            ["bash", script], cwd=desk, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert done.returncode == 0, done.stdout
        assert "Traceback" not in done.stdout
        return desk, done.stdout

    return run


@pytest.fixture(scope="module")
def research(travel: Travel) -> tuple[Path, str]:
    """What the researcher's page leaves and prints."""
    return travel("researcher")


def test_every_block_of_the_journeys_is_one_that_is_run() -> None:
    pages = sorted((ROOT / "docs" / "journeys").glob("*.md"))
    assert [page.stem for page in pages] == ["engineer", "hospital", "researcher"]
    assert {block.language for block in blocks(*pages)} == {"sh", "python"}


def test_a_researcher_comes_from_a_table_to_a_report(research: tuple[Path, str]) -> None:
    desk, said = research
    assert code_version() in said
    assert "left out: CT perfusion" in said
    assert "registered rlvo-ensemble version 1, alias champion" in said
    assert "6/6 trials finished" in said
    assert "tmax_gt4_ml" not in (desk / "cohort" / "table.csv").read_text()
    for page in ("cohort.html", "report.html"):
        assert (desk / page).read_text().startswith("<!doctype html>")
    assert len((desk / "rlvo-work" / "openings.jsonl").read_text().splitlines()) == 1


def test_the_commands_that_are_printed_next_are_those_of_the_page(research: tuple[Path, str]) -> None:
    _, said = research
    printed = {line.removeprefix("next: ") for line in said.splitlines() if line.startswith("next: ")}
    commands = {line for block in blocks(ROOT / "docs/journeys/researcher.md") for line in block.text.splitlines()}
    assert printed >= {"rlvo plan study.yaml", "rlvo ensemble study", "rlvo evaluate study"}
    assert printed - {"rlvo validate cohort/cohort.csv"} <= commands


def test_an_engineer_comes_from_a_wheel_to_a_served_model(travel: Travel) -> None:
    desk, said = travel("engineer")
    assert "rlvo-ensemble 1" in said
    assert "#/experiments/1/runs" in (desk / "ui.log").read_text()
    assert '"name": "first"' in said
    [answer] = json.loads((desk / "answer.json").read_text())["predictions"]
    assert answer["rlvo"] in (0, 1)
    assert answer["notice"] == NOTICE
    assert len((desk / "audit.jsonl").read_text().splitlines()) == 1
    assert {"tune_configs", "ray_cluster", "mlflow", "docker", "constraints.txt"} <= set(said.split())


def test_a_hospital_comes_from_an_archive_to_answers(research: tuple[Path, str], travel: Travel) -> None:
    desk, said = travel("hospital", *(research[0] / name for name in ("rlvo-model.tar.gz", "digest.txt")))
    assert "every file is as it was packed" in said
    assert "SYNTHETIC" in said
    assert said.count(".dcm") == 10
    assert json.loads((desk / "audit.jsonl").read_text())["model"] == "./rlvo-model/model"
    assert not any((desk / name).exists() for name in ("venv", "rlvo-model", "answers.csv", "reports"))


def test_an_altered_archive_stops_the_hospital(research: tuple[Path, str], tmp_path: Path) -> None:
    for name in ("rlvo-model.tar.gz", "digest.txt"):
        shutil.copy(research[0] / name, tmp_path)
    shutil.unpack_archive(tmp_path / "rlvo-model.tar.gz", tmp_path, filter="data")
    card = tmp_path / "rlvo-model" / "model" / "card.md"
    card.write_text(card.read_text() + " ")

    def run(command: str) -> subprocess.CompletedProcess[str]:
        assert command in (ROOT / "docs/journeys/hospital.md").read_text()
        return subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)

    verify = 'python3 -I rlvo-model/verify.py rlvo-model.tar.gz "$(cut -c-64 digest.txt)"'
    done = run(verify)
    assert (done.returncode, "card.md was altered" in done.stderr) == (1, True)
    assert run("sha256sum --check digest.txt").returncode == 0
    with (tmp_path / "rlvo-model.tar.gz").open("ab") as archive:
        archive.write(b" ")
    assert run("sha256sum --check digest.txt").returncode == 1
    assert "not the archive that this digest belongs to" in run(verify).stderr
