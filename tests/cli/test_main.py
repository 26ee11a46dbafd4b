"""Bad input, as a user meets it in a terminal: one clear line, exit code 2, no traceback."""

import os
import re
import subprocess
import sys
from pathlib import Path

from support.commands import refused, run

from rlvo.about import __version__, code_version


def rlvo(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rlvo.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_mistake_ends_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("name: s\ntraining: {epoch: 3}\n")
    ended = rlvo("plan", tmp_path / "study.yaml")
    [line] = ended.stderr.splitlines()
    assert ended.returncode == 2
    assert line.startswith("error: ")
    assert "unknown key 'training.epoch'; did you mean 'epochs'?" in line
    assert "there is no such file" in refused("plan", tmp_path / "none.yaml")
    assert "none.csv" in refused("validate", tmp_path / "none.csv")
    for command in ("ensemble", "evaluate"):
        assert "no study" in refused(command, "nothing", "--workdir", tmp_path)


def test_every_finding_is_a_line_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "cohort.csv").write_text("patient_id,rlvo\na,0\nb,1\n")
    ended = rlvo("validate", tmp_path / "cohort.csv", "--predictors", "age")
    assert ended.returncode == 2
    *_, first, finding = ended.stderr.splitlines()  # after the progress
    assert first.startswith("error: ")
    assert "age: the column is missing" in finding


def test_a_mistyped_command_is_not_obeyed() -> None:
    for arguments in (["\x1b[31m[/red]"], ["validate", "a", "\x1b[31m[/red]"], ["models", "\x1b[31m[/red]"]):
        ended = rlvo(*arguments)
        assert ended.returncode == 2
        assert r"\x1b[31m[/red]" in ended.stderr
        assert "\x1b" not in ended.stderr


def test_every_command_has_help_with_an_example() -> None:
    page = rlvo("--help").stdout
    commands = re.findall(r"^│ ([a-z][a-z-]+) ", page, flags=re.MULTILINE)
    assert {
        "demo", "synth", "validate", "baseline", "import-isles", "prepare", "plan", "search", "status", "ensemble",
        "evaluate", "predict", "serve", "bundle", "models", "convert-weights", "pretrain",
    } <= set(commands)  # fmt: skip
    for command in commands:
        assert f"Example: rlvo {command}" in run(command, "--help").stdout


def test_flags_are_shown_without_a_type() -> None:
    for command in ((), ("search",), ("synth",), ("models",), ("models", "compare"), ("demo",)):
        page = run(*command, "--help").stdout
        assert "<bool>" not in page
        assert "--help" in page
    assert "<path>" in run("search", "--help").stdout


def test_the_version_says_its_commit_and_the_package_is_a_program() -> None:
    command = [sys.executable, "-m", "rlvo", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (f"{code_version()}\n", "")
    assert __version__ in done.stdout


def test_a_shell_can_complete_the_commands() -> None:
    def shown(*arguments: str, **variables: str) -> str:
        command = [sys.executable, "-c", "import sys; sys.argv[0] = 'rlvo'; from rlvo.cli.main import main; main()"]
        environment = os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1", **variables}
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=True, env=environment)
        return done.stdout

    script = shown("--show-completion", "bash")
    assert "complete -o default -F _rlvo_completion rlvo" in script
    assert shown(_RLVO_COMPLETE="complete_bash", COMP_WORDS="rlvo sea", COMP_CWORD="1").split() == ["search"]
    options = shown(_RLVO_COMPLETE="complete_bash", COMP_WORDS="rlvo plan --co", COMP_CWORD="2")
    assert options.split() == ["--cohort"]


def test_starting_loads_nothing_heavy() -> None:
    heavy = {"torch", "mlflow", "ray", "optuna", "sklearn", "scipy", "pandas", "nibabel", "matplotlib", "fastapi"}
    code = f"import sys, rlvo.cli.main; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_fault_of_ours_shows_its_traceback_without_passwords() -> None:
    code = (
        "from rlvo.cli import main\n"
        "def app(): raise ValueError('\\x1b[31m postgresql://user:pass/w0rd@host/db')\n"
        "main.app = app\n"
        "main.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert r"ValueError: \x1b[31m postgresql://host/db" in done.stderr
    assert "\x1b" not in done.stderr
    assert "w0rd" not in done.stderr
