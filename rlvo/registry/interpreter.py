"""The Python process that a registered model runs in: the model brings its own copy of rlvo, so it needs its own."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

STAND_INS = Path(__file__).with_name("stand_ins")
"""Packages that models registered by earlier versions import and that are no longer installed along with rlvo."""
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PYTHONDONTWRITEBYTECODE": "1",  # compiled files would count as added to the model
}


def start_interpreter(
    program: str, *arguments: str, environment: Mapping[str, str] | None = None, **options: Any
) -> subprocess.Popen[Any]:
    """Start a program that loads a registered model. Ctrl-C does not reach it; its standard input is a pipe.

    Args:
        program: Python source; it finds `arguments` in `sys.argv[1:]`.
        environment: variables to set besides the inherited ones.
        options: passed on to `subprocess.Popen`.
    """
    offer_stand_ins = f"import sys\nsys.path.append({str(STAND_INS)!r})\n"  # last: installed packages are preferred
    return subprocess.Popen(
        [sys.executable, "-P", "-c", offer_stand_ins + program, *arguments],
        stdin=subprocess.PIPE,
        env={**os.environ, **SETTINGS, **(environment or {})},
        start_new_session=True,
        **options,
    )
