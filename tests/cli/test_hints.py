"""Commands that errors and messages name are complete: the user copies them, and they run."""

import ast
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer
from support.commands import refused
from support.study_on_disk import CTA, NCCT, StudyOnDisk

import rlvo
from rlvo.cli.main import app
from rlvo.config.workdir import Workdir
from rlvo.errors import RlvoError
from rlvo.search.preflight import study_lock
from rlvo.study.ablation import read_plan
from rlvo.study.folder import load_or_started, read_config, read_declared
from rlvo.study.trials import read_ended_trials
from rlvo.workflows.ensemble_comparison import compare_tie_rules

GROUP = typer.main.get_command(app)
COMMANDS = [*GROUP.commands]  # type: ignore[attr-defined]
NAMED = re.compile(rf"\brlvo (?:{'|'.join(COMMANDS)})\b")
PAGES = {"config/reference.py", "tracking/notes.py", "report/ablation.py", "workflows/report.py",
         "workflows/report_sections.py", "synthetic/cohort.py"}  # fmt: skip
"""They write pages, which are read elsewhere and name no folder; the last names what wrote a cohort."""


def said(tree: ast.AST) -> Iterator[ast.Constant]:
    """Every piece of text in a module that is neither a docstring nor help of the command line."""
    for node in ast.walk(tree):
        for field, value in ast.iter_fields(node):
            for each in value if isinstance(value, list) else [value]:
                is_help = isinstance(node, ast.keyword) and node.arg == "help"
                is_text = isinstance(each, ast.Constant) and isinstance(each.value, str)
                if is_text and not is_help and not isinstance(node, ast.Expr) and field != "body":
                    yield each


def test_no_message_names_a_command_without_what_it_needs() -> None:
    """`command_line` adds program, arguments and work folder."""
    root = Path(rlvo.__file__).parent
    found = [
        f"{path.relative_to(root)}:{text.lineno}: {text.value}"
        for path in root.rglob("*.py")
        if str(path.relative_to(root)) not in PAGES
        for text in said(ast.parse(path.read_text()))
        if NAMED.search(text.value)
    ]
    assert found == []


def check(message: str) -> list[str]:
    """The names of the commands in a message, in backticks or at its end, each of which can be run as it stands."""
    found = [shlex.split(command)[1:] for command in re.findall(r"(?<=`)rlvo [^`]+(?=`)|\brlvo [^`]+$", message)]
    for name, *words in found:
        GROUP.commands[name].make_context(name, words)  # type: ignore[attr-defined]  # raises if something is missing
    return [name for name, *_ in found]


def said_by(function: Callable[..., object], *arguments: object) -> list[str]:
    with pytest.raises(RlvoError) as caught:
        function(*arguments)
    return check(str(caught.value))


def test_a_study_that_is_not_far_enough_says_how_it_gets_there(on_disk: StudyOnDisk, tmp_path: Path) -> None:
    assert said_by(read_ended_trials, on_disk.folder) == ["status", "search"]
    assert said_by(read_declared, on_disk.folder) == ["ensemble"]
    assert said_by(compare_tie_rules, "fake", Workdir(on_disk.workdir)) == ["status", "search"]
    on_disk.end(NCCT, 0, on_disk.epochs(0))
    on_disk.end(CTA, 1, on_disk.epochs(1))
    assert said_by(compare_tie_rules, "fake", Workdir(on_disk.workdir)) == ["search"]
    on_disk.folder.ablation.write_text("{")
    assert said_by(read_plan, on_disk.folder) == ["ablate"]
    with study_lock(on_disk.folder):
        assert said_by(study_lock(on_disk.folder).__enter__) == ["status"]
    assert check(refused("status", "--json", "--watch", "--workdir", on_disk.workdir)) == ["status"]
    assert check(refused("status", "--workdir", tmp_path / "empty")) == ["search"]


def test_a_study_that_was_not_started_is_not_proposed(on_disk: StudyOnDisk, tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("name: other\n")
    assert "fake" in refused("ensemble", tmp_path / "other.yaml", "--workdir", on_disk.workdir)
    alone = refused("ensemble", tmp_path / "other.yaml", "--workdir", tmp_path / "empty")
    assert check(alone) == ["search"]
    assert f"search {tmp_path / 'other.yaml'}" in alone


def test_a_model_that_is_not_there_says_what_is(on_disk: StudyOnDisk) -> None:
    work = ("--workdir", on_disk.workdir)
    assert check(refused("models", *work)) == ["ensemble"]
    on_disk.tracking.client().create_registered_model("mine")
    assert refused("models", *work).endswith("Registered here: mine")
    assert check(refused("predict", "mine@champion", "patients.csv", "--json", *work)) == ["models"]
    assert check(refused("models", "--model", "mine", *work, "promote", "3")) == ["models"]


def test_a_search_goes_on_by_the_name_of_its_study(on_disk: StudyOnDisk) -> None:
    studies = on_disk.folder.path.parent
    assert load_or_started(Path("fake"), studies) == read_config(on_disk.folder)
    assert load_or_started(Path("demo"), studies).name == "demo"
    with pytest.raises(RlvoError, match="there is no such file"):
        load_or_started(Path("other"), studies)
