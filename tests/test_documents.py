"""The examples in README and docs work as they are pasted."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import typer
from ruamel.yaml import YAML
from support.commands import run
from support.documents import DOCUMENTS, ROOT, Block, blocks, commands_of, parse
from support.tiny_study import TinyStudy

from rlvo.cli.main import app

RLVO = typer.main.get_command(app)
API = blocks(ROOT / "docs/api.md", language="python")
NOT_RUN = re.compile(
    r"serve|prepare|rlvo pretrain|ablate|compare \d|promote|rollback|import|/3|--record|--reason|--configurations|"
    r"--address|demo"
)
"""Commands that are only parsed: they need real heads, a third version, a digest, a cluster, minutes, or do not end."""
pytestmark = pytest.mark.timeout(900)


def place(block: Block) -> str:
    return block.place


@pytest.mark.parametrize("block", [block for block in blocks() if block.language == "sh"], ids=place)
def test_a_block_of_shell_is_accepted_by_the_programs_it_calls(block: Block) -> None:
    done = subprocess.run(["bash", "-n", "-c", block.text], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "…" not in block.text
    for command in block.commands:
        for arguments in commands_of("rlvo", command):
            parse(RLVO, arguments)
            for word in arguments:
                assert not word.startswith("tune_configs/") or (ROOT / word).is_file()
        if command[0] == "make":
            assert re.search(rf"^{command[1]}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


def test_every_block_has_a_language_that_is_checked() -> None:
    assert {block.language for block in blocks()} <= {"sh", "python", "ini", "yaml"}
    assert all(YAML().load(block.text) for block in blocks(language="yaml"))
    assert len(blocks(language="sh")) > 15


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_options_named_in_the_text_exist(document: Path) -> None:
    for text in re.findall(r"`rlvo ([a-z-]+ [^`]*)`", document.read_text().replace("\n", " ")):
        command, name, *rest = RLVO, *text.split()
        command = command.commands[name]  # type: ignore[attr-defined]
        if rest and rest[0] in getattr(command, "commands", {}):
            command = command.commands[rest[0]]
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        assert {word for word in rest if word.startswith("--")} <= known, text


def test_the_examples_in_the_help_are_accepted() -> None:
    def check(command: object) -> int:
        found = re.findall(r"rlvo ([^;\n]+)", (command.help or "").partition("Example:")[2])  # type: ignore[attr-defined]
        for example in found:
            parse(RLVO, example.split())
        return len(found) + sum(map(check, getattr(command, "commands", {}).values()))

    assert check(RLVO) >= 15


@pytest.fixture
def desk(study: TinyStudy, tmp_path: Path) -> Path:
    """A folder with everything that the examples name; the study in it has ended, but nothing is registered yet."""
    import torch  # here: most tests of documents do without
    from monai.networks.nets.resnet import ResNetFeatures

    (desk := tmp_path / "desk").mkdir()
    study.copy(desk / "rlvo-work")
    (desk / "tune_configs").mkdir()
    configuration = study.config.model_dump_json(exclude={"cohort": {"table"}})
    (desk / "tune_configs" / "tiny.yaml").write_text(configuration)
    for patient in study.raw["patient_id"]:
        (desk / patient).symlink_to(study.cohort.parent / patient)
    study.raw.to_csv(desk / "cohort.csv", index=False)
    others = study.raw.copy()
    others["patient_id"] = [f"new-{number}" for number in range(len(others))]
    others["age"] = others["age"].to_numpy()[::-1] + 1
    others["nihss"] = others["nihss"].to_numpy()[::-1]
    others[["cbf_lt30_ml", "tmax_gt4_ml", "tmax_gt6_ml", "tmax_gt10_ml"]] *= 0.9
    others["rlvo"] = [number % 2 for number in range(len(others))]  # recalibration needs enough of either
    for name in ("hospital-b", "other_hospital"):
        others.to_csv(desk / f"{name}.csv", index=False)
    new = others.head(2).drop(columns="rlvo")
    for name in ("patients", "new_patients"):
        new.to_csv(desk / f"{name}.csv", index=False)
    (desk / "incoming").mkdir()
    for patient, volumes in zip(new["patient_id"], study.raw["patient_id"], strict=False):
        (desk / "incoming" / patient).symlink_to(study.cohort.parent / volumes)
    new.drop(columns=["ncct", "cta", "vessels"]).to_csv(desk / "table.csv", index=False)
    network = ResNetFeatures("resnet10", pretrained=False, in_channels=1)
    torch.save(network.state_dict(), desk / "resnet_10_23dataset.pth")
    return desk


def as_tiny(text: str) -> str:
    """The example with the desk's study."""
    text = re.sub(r"(?<=plan |arch )(paper_grid|search_asha)", "tune_configs/tiny.yaml", text)
    return re.sub("paper_grid|search_asha", "tiny", text)


def run_python(block: Block, folder: Path) -> str:
    """What a Python block prints as a script that is run in a folder, where rlvo is found as if it were installed."""
    before = {path.name for path in folder.iterdir()}
    script = folder.with_suffix(".py")
    script.write_text(as_tiny(block.text))
    done = subprocess.run(
        [sys.executable, script],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{block.place}\n{done.stderr}"
    strays = {path.name for path in folder.iterdir()} - before
    assert not strays & {"mlflow.db", "mlruns", "mlartifacts"}, f"{block.place} leaves {strays}"
    return done.stdout


@pytest.mark.slow
def test_readmes_python_and_every_block_that_asks_a_model(desk: Path) -> None:
    """In the documents' order: README's first block registers the model that the others ask."""
    found = [block for block in blocks(language="python") if not block.place.startswith(("docs/api.md", "mlflow/"))]
    assert [block.place.partition(":")[0] for block in found[:2]] == ["README.md", "README.md"]
    for block in found:
        run_python(block, desk)


@pytest.mark.slow
def test_the_commands_of_the_documents_run_in_their_order(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(desk)
    found = [block for block in blocks(language="sh") if not block.place.startswith(("ray_cluster", "mlflow"))]
    lines = dict.fromkeys(" ".join(command) for block in found for command in block.commands if command[0] == "rlvo")
    ran = []
    for line in lines:  # once, if two documents have the same
        if not NOT_RUN.search(line):
            run(*as_tiny(line).split()[1:])
            ran.append(line.split()[1])
    assert {"validate", "baseline", "plan", "search", "status", "ensemble", "evaluate", "models"} <= set(ran)
    assert {"predict", "bundle"} <= set(ran)
    assert pd.read_csv("answers.csv")["rlvo"].isin([0, 1]).all()


@pytest.mark.slow
def test_the_page_on_python_runs_as_it_stands(tmp_path: Path) -> None:
    said = run_python(API[0], tmp_path)
    assert said.startswith("4 trials\n")
    assert "rlvo-ensemble 1 (" in said
    assert "synth-00001" in said
    assert len((tmp_path / "rlvo-work" / "openings.jsonl").read_text().splitlines()) == 1
    for block in API[1:]:
        run_python(block, tmp_path)
