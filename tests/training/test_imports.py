"""A worker loads no more than its trials use."""

import subprocess
import sys

WORKER = """
import sys
from rlvo.training.imports import EXTRAS, import_monai
before = set(sys.modules)
import_monai()
from rlvo.training.fit import fit
assert "monai.networks.nets.densenet" in sys.modules
print(*(name for name in EXTRAS if name in sys.modules and name not in before), sep=",")
import matplotlib.figure, mlflow, nibabel
print(matplotlib.figure.Figure.__name__, mlflow.log_metric.__name__, nibabel.load.__name__)
"""


def test_monai_is_imported_without_what_no_trial_uses_and_others_can_still_import_that() -> None:
    done = subprocess.run([sys.executable, "-c", WORKER], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == ["", "Figure log_metric load"], done.stderr
