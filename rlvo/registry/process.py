"""A registered model in a process of its own, which runs the code that was registered with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import pandas as pd

from rlvo.errors import MachineError, RlvoError

CHILD = """
import json, os, sys
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # whatever a library prints is no answer
def say(**what):
    print(json.dumps(what), file=answers, flush=True)
try:
    import mlflow.pyfunc, pandas
    model = mlflow.pyfunc.load_model(sys.argv[1])
    say(ready=True)
except Exception as error:
    say(error=str(error))
    raise SystemExit(1)
for line in sys.stdin:
    asked = json.loads(line)
    try:
        rows = model.predict(pandas.DataFrame([asked["row"]]), params=asked["params"])
        rows = rows.astype(object).where(rows.notna(), None)
        say(answer=rows.iloc[0].to_dict())
    except Exception as error:
        say(error=str(error), exit_code=getattr(error, "exit_code", 1))
"""
STOPPING_SECONDS = 10


class ModelProcess:
    """Loads an MLflow model folder as anyone would who has no rlvo, and answers row by row.

    Ctrl-C does not reach the process: it ends with the `with` block, or with ours.

    Args:
        model: a verified MLflow model folder.
    """

    def __init__(self, model: Path) -> None:
        self._model = model

    def __enter__(self) -> ModelProcess:
        self._log = tempfile.TemporaryFile()  # what the model's libraries say, shown where it dies
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", CHILD, str(self._model)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},  # compiled files would count as added to the model
            start_new_session=True,
        )
        try:
            self._read()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def answer(self, row: Mapping[str, Any], **params: Any) -> dict[str, Any]:
        """The answer to one patient's row of a cohort table.

        Args:
            params: of the model's `predict`.

        Raises:
            RlvoError: the row cannot be a patient's.
            MachineError: the model failed, or its process died.
        """
        assert self._process.stdin is not None
        cells = {name: _plain(value) for name, value in row.items()}
        try:
            self._process.stdin.write(json.dumps({"row": cells, "params": params}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._death() from None
        return dict(self._read()["answer"])

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith("\n"):
            raise self._death()
        said: dict[str, Any] = json.loads(line)
        if "error" not in said:
            return said
        reason = " ".join(said["error"].split())
        if said.get("exit_code") == RlvoError.exit_code:
            raise RlvoError(reason)
        raise MachineError(f"the model failed: {reason}", where=self._model)

    def _death(self) -> MachineError:
        """Why the process ended: its exit code, and the last thing it said."""
        code = self._process.wait()
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").splitlines()
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
        fix = "A negative code is a signal; -9 is what a machine without memory left sends" if code < 0 else None
        return MachineError(f"the model's process died (code {code}): {last}", where=self._model, fix=fix)

    def _end(self) -> None:
        self._process.terminate()
        try:
            self._process.communicate(timeout=STOPPING_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        finally:
            self._log.close()


def _plain(cell: Any) -> Any:
    """A cell as JSON has it."""
    if pd.isna(cell):
        return None
    return cell.item() if hasattr(cell, "item") else cell
