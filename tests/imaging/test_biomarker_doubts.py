"""The doubts of biomarkers by kind: every doubt that is written has one, and none tells what is of one patient."""

import ast
import inspect
import re
from collections import Counter
from collections.abc import Iterator

import pytest

from rlvo.imaging import biomarkers, cohort_biomarkers
from rlvo.imaging.biomarker_doubts import KINDS, NO_REASON, OTHER, count_doubts, count_reasons, kinds_of
from rlvo.imaging.biomarkers import DECLARED

OUTSIDE = "NCCT: carotid end and M1 are outside the scan: it was not measured"
NO_NCCT = "no NCCT: calcium, clot and density were not measured"
NO_CLOT = "clot was not measured: nothing dense without contrast where the occlusion should be"
OTHER_SIDE = "the images show the left side, but occlusion_side is right"


def written_doubts() -> Iterator[str]:
    """Every text that the source appends to doubts, with a word where it puts a value."""
    for module in (biomarkers, cohort_biomarkers):
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if not (isinstance(node, ast.Call) and ast.unparse(node.func) == "doubts.append"):
                continue
            (text,) = node.args
            parts = text.values if isinstance(text, ast.JoinedStr) else [text]
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "NCCT" for part in parts)


def test_every_doubt_that_is_written_has_a_kind_and_every_kind_a_doubt() -> None:
    doubts = [*written_doubts(), "nothing was measured", "not prepared"]
    doubts += [each.replace("NCCT: ", "CTA: ", 1) for each in doubts if each.startswith("NCCT: ")]
    assert len(doubts) > 15
    found = Counter(name for each in doubts for name in kinds_of(each))
    assert OTHER not in found
    assert set(found) == {kind.name for kind in KINDS}


@pytest.mark.parametrize("name", DECLARED)
def test_a_missing_value_counts_once_with_its_first_reason(name: str) -> None:
    patients = [f"{OUTSIDE}; {NO_NCCT}", f"{NO_CLOT}; {OTHER_SIDE}", f"{name} not measured: 999 HU cannot be", ""]
    found = count_reasons(name, patients)
    assert found.total() == len(patients)
    assert found["a value that cannot be"] == 1
    of_ncct, of_clot = (bool(re.match(kind, name)) for kind in ("calcium|clot|taper|density", "clot|taper"))
    assert found["NCCT: carotid end and M1 are outside the scan"] == of_ncct
    assert found[NO_REASON] == 4 - 1 - of_ncct - of_clot


def test_what_is_of_one_patient_is_not_told() -> None:
    cells = [
        OTHER_SIDE,
        "a scan could not be read again: PLANTED-7.nii.gz is damaged; PLANTED-8 too",
        "call PLANTED",
        "",
    ]
    found = count_doubts([*cells, OTHER_SIDE.replace("left", "right")])
    assert found == {
        "the images show the other side than occlusion_side": 2,
        "a scan could not be read again": 1,
        OTHER: 2,
    }
