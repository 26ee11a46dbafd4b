"""What MLflow runs to load the registered model (models from code). rlvo comes with the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext


class RlvoEnsemble(PythonModel):
    """`predict` takes a cohort table and the parameter `folder`, which relative volume paths are relative to."""

    def load_context(self, context: PythonModelContext) -> None:
        from rlvo.registry.inference import EnsemblePredictor

        self.predictor = EnsemblePredictor.load(Path(context.artifacts["model"]))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        return self.predictor.predict(model_input, Path((params or {}).get("folder", ".")))


set_model(RlvoEnsemble())
