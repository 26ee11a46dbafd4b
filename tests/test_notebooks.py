"""The notebooks run as they stand, and what is committed of them is clean."""

import json
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from support.documents import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def outputs(notebook: nbformat.NotebookNode) -> list[set[str]]:
    """What kinds of output each cell of code has, without libraries' remarks on the kernel and Ray's empty display."""
    found = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            data = [o.get("data") or {o["name"]: o["text"]} for o in cell.outputs if o.get("name") != "stderr"]
            found.append({kind for each in data for kind in each if each.get("text/html") != ""})
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_committed_notebook_has_outputs_and_names_no_machine_or_user(path: Path) -> None:
    text = path.read_text()
    assert len(text) < 500_000
    assert re.findall(r"/(?:tmp|home|root|work|Users)/|\\u001b|iopub", text) == []
    notebook = json.loads(text)
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)]
    assert sum("image/png" in kinds for kinds in outputs(nbformat.reads(text, 4))) >= 3
    assert "SYNTHETIC" in text


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_as_it_stands(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    committed = nbformat.read(path, 4)
    ran = NotebookClient(nbformat.from_dict(committed), resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert outputs(ran) == outputs(committed)
