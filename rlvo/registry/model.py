"""What MLflow runs to load the registered model (models from code): it checks the model's files, then imports them.

Nothing but the standard library and MLflow, which brings pandas, is imported before the check.
"""

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE, PERMISSION_DENIED
from mlflow.pyfunc.model import PythonModel, PythonModelContext

MANIFEST = "manifest.json"
"""SHA-256 of every other file of the MLflow model, by its path in the model."""
UNLISTED = re.compile(r"manifest\.json|registered_model_meta|__pycache__/model\.[\w.-]+")
"""The manifest itself, and what loading writes: MLflow's note of the version, and this file, compiled."""


class AlteredModelError(Exception):
    """The model, or the code that would run it, is not what was registered."""


def model_files(root: Path) -> Iterator[str]:
    """Paths, relative to `root`, of what a manifest lists: every file, and links, which can hide files."""
    for folder, folders, files in os.walk(root):
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        names = ((Path(folder) / name).relative_to(root).as_posix() for name in [*files, *links])
        yield from (name for name in names if not UNLISTED.fullmatch(name) or (root / name).is_symlink())


def check_files(root: Path) -> None:
    """Compare the MLflow model in `root` with its manifest.

    Raises:
        AlteredModelError: names the file that is missing, altered, or was added.
    """
    try:
        listed: dict[str, str] = dict(json.loads((root / MANIFEST).read_bytes()))
    except (OSError, ValueError, TypeError, RecursionError):
        raise AlteredModelError(f"{MANIFEST} is missing or damaged") from None
    for name, digest in listed.items():
        if not (root / name).is_file() or _sha256(root / name) != digest:
            raise AlteredModelError(f"{name} is missing, or was altered since the model was registered")
    if added := sorted(set(model_files(root)) - set(listed)):
        raise AlteredModelError(f"{added[0]} was added since the model was registered")


def check_own_code(code: Path) -> None:
    """Check that this process imports the rlvo in `code`. One imported from elsewhere before will do if it is the same.

    Raises:
        AlteredModelError: this process has imported another rlvo.
    """
    found = find_spec("rlvo")  # if it is imported already, the imported one
    own, imported = code / "rlvo", Path((found and found.origin) or "").parent
    for path in own.rglob("*.py"):
        other = imported / path.relative_to(own)
        if not other.is_file() or _sha256(other) != _sha256(path):
            version = getattr(sys.modules.get("rlvo"), "__version__", "unknown")
            raise AlteredModelError(
                f"this process has imported another rlvo (version {version}) than the model was registered "
                f"with ({path.relative_to(code).as_posix()} differs). Load the model in a process of its own"
            )


class RlvoEnsemble(PythonModel):
    """`predict` takes a cohort table; volume paths in it are relative to the parameter `folder`."""

    def load_context(self, context: PythonModelContext) -> None:
        folder = Path(context.artifacts["model"])
        root = folder.parents[1]
        check_files(root)
        sys.dont_write_bytecode = True  # compiled files beside the code would count as added
        check_own_code(root / "code")

        from rlvo.inference.predictor import EnsemblePredictor
        from rlvo.inference.service import Service

        self.predictor = EnsemblePredictor.load(folder)
        self.service = Service(self.predictor)

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Answer one row per patient. While served, errors are MLflow's, which have an HTTP status."""
        from rlvo.errors import MachineError, RlvoError
        from rlvo.inference.service import ForbiddenPathError, is_served

        given = params or {}
        try:
            return self.service.predict(
                model_input,
                given.get("folder", "."),
                given.get("store", ""),
                members=given.get("members", False),
                precision=given.get("precision", "float32"),
            )
        except RlvoError as error:
            if not is_served():
                raise
            codes = {ForbiddenPathError: PERMISSION_DENIED, MachineError: INTERNAL_ERROR}
            code = next((code for kind, code in codes.items() if isinstance(error, kind)), INVALID_PARAMETER_VALUE)
            raise MlflowException(" ".join(str(error).split()), error_code=code) from None

    def explain(self, model_input: pd.DataFrame, folder: str, into: str, **options: Any) -> None:
        """Explain the answer for the one patient of a table, into a folder; not for servers, not called by MLflow.

        Whoever asks may run another version of rlvo: the parameters and the files stay readable.
        """
        from rlvo.inference.explanation import explain_answer

        explain_answer(self.predictor, model_input, Path(folder), **options).write(Path(into))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


set_model(RlvoEnsemble())
