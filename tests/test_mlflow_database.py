"""The database of a work folder is made whole, also if several processes make it at once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import json, os, sys
from pathlib import Path

from rlvo.mlflow_client import Tracking

folder, count = Path(sys.argv[1]), int(sys.argv[2])
tracking = Tracking(f"sqlite:///{folder / 'mlflow.db'}", folder / "mlflow-artifacts")


def fork(work):
    if child := os.fork():
        return child
    try:
        work()
        os._exit(0)
    except BaseException as error:
        print(error, file=sys.stderr)
        os._exit(1)


def make(name):
    os.read(wait, 1)  # until all are there
    tracking.open_experiment(name)


wait, go = os.pipe()
children = [fork(lambda name=f"study-{number}": make(name)) for number in range(count)]
os.write(go, b"." * count)
codes = [os.waitpid(child, 0)[1] for child in children]

names = sorted(each.name for each in tracking.client().search_experiments())
print(json.dumps({"codes": codes, "names": names, "left": sorted(path.name for path in folder.glob("*.db*"))}))
"""


@pytest.mark.slow
def test_studies_that_begin_at_once_in_a_new_work_folder(tmp_path: Path) -> None:
    """MLflow makes it in dozens of steps, in which all but one of those who take them together fail."""
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), "3"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    studies = ["study-0", "study-1", "study-2"]
    assert json.loads(done.stdout) == {"codes": [0, 0, 0], "names": ["Default", *studies], "left": ["mlflow.db"]}
