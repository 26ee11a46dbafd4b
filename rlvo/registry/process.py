"""A registered model in a process of its own, which runs the code that was registered with it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import pandas as pd

from rlvo.errors import MachineError

CHILD = """
import json, sys
import mlflow.pyfunc, pandas
answers, sys.stdout = sys.stdout, sys.stderr
try:
    model = mlflow.pyfunc.load_model(sys.argv[1])
    print(json.dumps({"ready": True}), file=answers, flush=True)
except Exception as error:
    print(json.dumps({"error": str(error)}), file=answers, flush=True)
    raise SystemExit(1)
for line in sys.stdin:
    asked = json.loads(line)
    try:
        rows = model.predict(pandas.DataFrame([asked["row"]]), params=asked["params"])
        answer = {"answer": json.loads(rows.to_json(orient="records", double_precision=15))[0]}
    except Exception as error:
        answer = {"error": str(error)}
    print(json.dumps(answer), file=answers, flush=True)
"""


class ModelProcess:
    """Loads an MLflow model folder as anyone would who has no rlvo, and answers row by row.

    Args:
        model: a verified MLflow model folder.
    """

    def __init__(self, model: Path) -> None:
        self._model = model

    def __enter__(self) -> ModelProcess:
        command = [sys.executable, "-c", CHILD, str(self._model)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._read()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.communicate()

    def answer(self, row: Mapping[str, Any], **params: Any) -> dict[str, Any]:
        """The answer to one patient's row of a cohort table.

        Args:
            params: of the model's `predict`.

        Raises:
            MachineError: the model failed, or its process died.
        """
        assert self._process.stdin is not None
        cells = {name: None if pd.isna(value) else value for name, value in row.items()}
        self._process.stdin.write(json.dumps({"row": cells, "params": params}) + "\n")
        self._process.stdin.flush()
        return dict(self._read()["answer"])

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        said = json.loads(line) if line else {"error": "its process died"}
        if "error" in said:
            raise MachineError(f"the model failed: {said['error']}", where=self._model)
        return said
