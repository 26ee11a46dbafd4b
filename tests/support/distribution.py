"""The wheel of this checkout, and Python without this checkout in its sight."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def python(*arguments: object, cwd: Path = ROOT, interpreter: Path = Path(sys.executable), **environment: str) -> str:
    """What Python prints, with this checkout out of its sight."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environment
    done = subprocess.run(
        [interpreter, *map(str, arguments)], cwd=cwd, env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(folder: Path, checkout: Path = ROOT) -> Path:
    """Build the source distribution, and from it the wheel, into a folder; return the wheel."""
    python("-m", "build", "--no-isolation", "--outdir", folder, cwd=checkout)
    [wheel] = folder.glob("*.whl")
    return wheel
