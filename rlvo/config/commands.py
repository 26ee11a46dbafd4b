"""Commands of rlvo that are printed for the user to run next: they run as they are printed."""

import os
import shlex
import shutil
import sys
from pathlib import Path

from rlvo.about import SOURCES
from rlvo.config.workdir import DEFAULT


def command_line(*words: object, workdir: Path | None = None) -> str:
    """A command of rlvo as a shell takes it, called as this process was.

    Args:
        words: the command and its arguments.
        workdir: added as `--workdir` unless it is the one that is used by default; None: the command takes none.
    """
    if workdir is not None and workdir.resolve() != Path(os.environ.get("RLVO_WORKDIR") or DEFAULT).resolve():
        words = (*words, "--workdir", workdir)
    return shlex.join([*_program(), *map(str, words)])


def _program() -> list[str]:
    """How this process was called: `rlvo` if the path finds it, the script's path otherwise, or `python -m rlvo`."""
    script = Path(sys.argv[0])
    if SOURCES in script.resolve().parents:
        python = Path(sys.executable)
        return [python.name if _is_on_path(python) else str(python), "-m", "rlvo"]
    return ["rlvo"] if script.name != "rlvo" or _is_on_path(script) else [sys.argv[0]]


def _is_on_path(program: Path) -> bool:
    found = shutil.which(program.name)
    return found is not None and os.path.realpath(found) == os.path.realpath(program)
