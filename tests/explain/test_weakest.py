"""Which predictors go, on rankings made by hand."""

import numpy as np
import pandas as pd
import pytest

from rlvo.cohort.variables import CTP
from rlvo.errors import RlvoError
from rlvo.explain.ranking import VariableImportance
from rlvo.explain.weakest import LAST, RULE, check_droppable, weakest

CLINICAL = ["age", "sex", "nihss", "smoking", "ivt", "diabetes", "hypertension"]


def importance(ranked: list[str], losses: dict[str, float], perfusion: float = 0.0) -> VariableImportance:
    """A ranking in this order; each loss of AUC has an SD of 0.01."""
    loss = [losses.get(name, 0.0) for name in ranked]
    table = pd.DataFrame({"auc_drop": loss, "auc_drop_sd": 0.01, "mean_rank": range(1, len(ranked) + 1)}, index=ranked)
    none = pd.Series(dtype=float)
    return VariableImportance(table, pd.DataFrame(), none, none, (perfusion, 0.01), ())


def test_of_the_lower_half_go_those_whose_loss_is_within_one_sd() -> None:
    ranked = [*CLINICAL, *CTP]  # 8 variables, CT perfusion being one: the lower half are the last 4
    found, rule = weakest(importance(ranked, {"ivt": 0.02, "diabetes": 0.01}))
    assert found == (
        "diabetes",
        "hypertension",
        *CTP,
    )  # ivt is above its SD, diabetes is not, smoking is in the upper half
    assert rule == RULE


def test_ct_perfusion_stays_or_goes_as_a_whole() -> None:
    ranked = [*CLINICAL, *CTP]
    alone = dict.fromkeys(CTP, 0.0)  # each tells what the others tell
    assert weakest(importance(ranked, alone, perfusion=0.011))[0] == ("ivt", "diabetes", "hypertension")
    strong_alone = dict.fromkeys(CTP, 1.0)
    assert set(CTP) < set(weakest(importance(ranked, strong_alone, perfusion=-0.002))[0])
    with_perfusion_first = importance([*CTP, *CLINICAL], alone)
    assert set(weakest(with_perfusion_first)[0]) == {"smoking", "ivt", "diabetes", "hypertension"}


def test_a_number_counts_predictors_from_the_end() -> None:
    ranked = [*CLINICAL, *CTP]
    assert weakest(importance(ranked, dict.fromkeys(ranked, 1.0)), 2) == (CTP[-2:], LAST.format(2))


def test_nothing_to_drop_and_nothing_left_are_refused() -> None:
    with pytest.raises(RlvoError, match="every variable in the lower half of the ranking is needed"):
        weakest(importance(CLINICAL, dict.fromkeys(CLINICAL, 0.5)))
    with pytest.raises(RlvoError, match="7 of 7 predictors would go"):
        weakest(importance(CLINICAL, {}), 7)
    with pytest.raises(RlvoError, match="no predictors of this study: hir, etici") as refused:
        check_droppable(("hir", "age", "etici"), CLINICAL)
    assert "They are age, sex" in str(refused.value)
    with pytest.raises(RlvoError, match="0 of 7"):
        check_droppable((), CLINICAL)
    assert check_droppable(("ivt", "age"), CLINICAL) == ("age", "ivt")


def test_a_loss_that_is_not_known_saves_nothing() -> None:
    found = importance(CLINICAL, {"hypertension": np.nan})
    assert weakest(found)[0] == ("ivt", "diabetes", "hypertension")


def test_of_equals_the_later_in_the_ranking_goes() -> None:
    found = importance(CLINICAL[:4], {})
    found.table["mean_rank"] = [1.0, 2.5, 2.5, 2.5]
    assert weakest(found)[0] == ("nihss", "smoking")
