"""What MLflow runs to load the registered model (models from code): it checks the model's files, then imports them.

Nothing but the standard library and MLflow is imported before the check.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

MANIFEST = "manifest.json"
"""SHA-256 of every other file of the MLflow model, by its path within."""


class AlteredModelError(Exception):
    """A file of the model is not what was registered."""


def check_files(root: Path) -> None:
    """Compare the MLflow model in `root` with its manifest. Raises AlteredModelError, naming the file."""
    try:
        listed: dict[str, str] = json.loads((root / MANIFEST).read_bytes())
    except (OSError, ValueError):
        raise AlteredModelError(f"{MANIFEST} is missing or damaged") from None
    for name, digest in listed.items():
        path = root / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise AlteredModelError(f"{name}: missing or altered since the model was registered")


class RlvoEnsemble(PythonModel):
    """`predict` takes a cohort table; volume paths in it are relative to the parameter `folder`."""

    def load_context(self, context: PythonModelContext) -> None:
        folder = Path(context.artifacts["model"])
        check_files(folder.parents[1])
        sys.dont_write_bytecode = True  # compiled files beside the code would count as altered

        from rlvo.imaging.store import VolumeStore
        from rlvo.registry.inference import EnsemblePredictor

        self.store_at = VolumeStore
        self.predictor = EnsemblePredictor.load(folder)

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        given = params or {}
        store = given.get("store")
        return self.predictor.predict(
            model_input,
            Path(given.get("folder", ".")),
            store=self.store_at(Path(store)) if store else None,
            members=given.get("members", False),
        )


set_model(RlvoEnsemble())
