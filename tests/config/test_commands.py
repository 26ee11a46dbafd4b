"""Printed commands are what a shell needs, however rlvo was called."""

import os
import shlex
import sys
from pathlib import Path

import pytest

from rlvo.about import SOURCES
from rlvo.config.commands import command_line


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RLVO_WORKDIR", raising=False)
    Path("bin").mkdir()
    Path("bin/rlvo").touch(mode=0o755)


def called(monkeypatch: pytest.MonkeyPatch, script: str, path: str) -> str:
    monkeypatch.setattr(sys, "argv", [script, "demo"])
    monkeypatch.setenv("PATH", path)
    return command_line("plan", "demo")


def test_the_program_is_named_as_it_was_called(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert called(monkeypatch, "bin/rlvo", "/usr/bin") == "bin/rlvo plan demo"
    assert called(monkeypatch, f"{tmp_path}/bin/rlvo", f"{tmp_path}/bin") == "rlvo plan demo"
    Path("other").mkdir()
    Path("other/rlvo").touch(mode=0o755)  # the path finds another installation
    assert called(monkeypatch, "bin/rlvo", f"{tmp_path}/other:{tmp_path}/bin") == "bin/rlvo plan demo"
    assert called(monkeypatch, str(SOURCES / "__main__.py"), "/nowhere") == f"{sys.executable} -m rlvo plan demo"
    with_python = called(monkeypatch, str(SOURCES / "cli" / "main.py"), os.path.dirname(sys.executable))
    assert called(monkeypatch, "/lib/pytest/__main__.py", "/nowhere") == "rlvo plan demo"
    assert with_python == f"{Path(sys.executable).name} -m rlvo plan demo"


def test_words_are_quoted_and_the_work_folder_is_named_unless_it_is_the_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = ["ensemble", "it's mine", tmp_path / "a b.csv"]
    assert shlex.split(command_line(*words))[1:] == list(map(str, words))
    assert "--workdir" not in command_line("status", workdir=Path("rlvo-work").resolve())
    assert shlex.split(command_line("status", workdir=tmp_path / "my work"))[2:] == ["--workdir", f"{tmp_path}/my work"]
    monkeypatch.setenv("RLVO_WORKDIR", "my work")
    assert "--workdir" not in command_line("status", workdir=tmp_path / "my work")
    assert "--workdir" in command_line("status", workdir=tmp_path / "rlvo-work")
