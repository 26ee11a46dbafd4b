import pandas as pd
import pytest

from rlvo.cohort.cells import typed_column
from rlvo.cohort.hints import accepted_word, hint
from rlvo.cohort.variables import VARIABLES


@pytest.mark.parametrize(
    ("column", "word", "cells"),
    [
        ("occlusion_site", "TICA", "ICA-T|carotid T|T-ICA|terminal ICA|ICA terminus|carotid-terminus|ICAT"),
        ("occlusion_site", "M1", "MCA-M1|M1 MCA|left M1|proximal M1 segment|ACM M1|mcam1"),
        ("occlusion_site", "M2", "M2 superior|MCA M2"),
        ("hypertension", "1", "VRAI|ja|sí|oui|Yes|checked|positiv|x|WAHR|y|✓"),
        ("hypertension", "0", "FAUX|nein|no|Non|unchecked|negative|FALSCH"),
        ("sex", "F", "female|mujer|w|Frau|femenino|féminin|donna"),
        ("sex", "M", "male|hombre|H|Mann|masculino|varón|maschio"),
        ("occlusion_side", "left", "L|izquierda|izq.|links|gauche|sinistra"),
        ("occlusion_side", "right", "R|derecha|dcha|rechts|droit|destra"),
        ("etici", "2b", "TICI 2b|IIb|mTICI 2B|2 b|grade 2b"),
        ("etici", "2b67", "eTICI 2b-67|2B67"),
        ("etiology", "other", "cardioembolic|cardio-embolic|embolic"),
    ],
)
def test_words_get_the_one_that_would_be_accepted(column: str, word: str, cells: str) -> None:
    for cell in cells.split("|"):
        assert f"Write {word}" in str(hint(cell, VARIABLES[column])), cell


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("sex", "1"), ("sex", "2"), ("sex", "v"), ("occlusion_side", "1"), ("occlusion_side", "left and right"),
        ("occlusion_side", "bilateral"), ("occlusion_site", "ICA"), ("occlusion_site", "M1/M2"),
        ("occlusion_site", "ICA-T/M1"), ("occlusion_site", "M3"), ("etici", "2"), ("hypertension", "2"),
    ],
)  # fmt: skip
def test_what_a_cell_stands_for_is_not_guessed(column: str, cell: str) -> None:
    assert accepted_word(cell, VARIABLES[column]) is None


def test_advice_is_that_of_the_column() -> None:
    for column in ("sex", "occlusion_side", "hypertension", "age", "nihss"):
        for cell in ("1", "2", "3", "2b", "iii"):
            assert "grade" not in str(hint(cell, VARIABLES[column]))
    assert "yes" not in str(hint("n", VARIABLES["age"]))
    assert hint("1,234", VARIABLES["tmax_gt4_ml"]) == "Write 1234 or 1.234, without thousands separators"
    assert hint("12,5", VARIABLES["nihss"], decimal_comma=True) is None
    assert "missing value" in str(hint("#NULL!", VARIABLES["age"]))


@pytest.mark.parametrize("column", [name for name, each in VARIABLES.items() if each.kind not in ("text", "date")])
def test_advice_names_only_what_the_column_allows(column: str) -> None:
    """No column is told another kind's words, and every finding says what is allowed."""
    variable = VARIABLES[column]
    cells = pd.Series(
        [f"{n}" for n in (-5, 77)] + ["X", "abc", "yes", "<5", "both", "M9", "TICI 9", "0,5", "12 h"], dtype="str"
    )
    _, findings = typed_column(cells, variable, False)
    is_yes_or_no = variable.kind == "binary" and not variable.levels
    for finding in findings:
        assert finding.allowed == variable.allowed
        assert is_yes_or_no or "yes" not in str(finding.fix)
        assert column == "sex" or "male" not in str(finding.fix)
        assert column == "etici" or "grade" not in str(finding.fix)
    assert hint("yes", VARIABLES["smoking"]) == "Write 1 for yes"
    assert hint("0)", VARIABLES["etici"]) == "Write 0 (only the grade, with a lower-case letter)"


def test_a_day_that_cannot_be_is_not_advised() -> None:
    assert hint("2024-13-01", VARIABLES["admission_date"]) == "There is no such day"
    assert hint("2024/2/1", VARIABLES["admission_date"]) == "Write 2024-02-01, if it is that day"
    assert hint("2999-01-01", VARIABLES["admission_date"]) is None  # it is well written, but in the future
