"""The error breakdown, against counts by hand and SciPy's test."""

import pandas as pd
import pytest
from scipy.stats import fisher_exact

from rlvo.evaluation.errors_by_cause import error_breakdown
from rlvo.evaluation.metrics import wilson_interval

LABEL = [1] * 9 + [0] * 6
VOTE = [1, 1, 1, 0, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0]
CAUSE = ["icad"] * 4 + ["other"] * 4 + [None] + ["icad"] + [None] * 5
ANSWERS = pd.DataFrame({"label": LABEL, "rlvo": VOTE}, index=[f"p{i}" for i in range(15)])


def test_every_decision_is_counted_once_and_causes_are_those_of_rlvo() -> None:
    etiology = pd.Series(CAUSE, index=ANSWERS.index, dtype="str")
    [row] = error_breakdown({"A": ANSWERS}, etiology).to_dict("records")
    assert [row[name] for name in ("found", "missed", "needless", "spared")] == [5, 4, 2, 4]
    assert (row["icad"], row["icad_found"], row["other"], row["other_found"]) == (4, 3, 4, 1)
    assert row["icad_sensitivity"] == 0.75
    assert (row["other_sensitivity_low"], row["other_sensitivity_high"]) == wilson_interval(1, 4)
    assert row["cause_p"] == pytest.approx(fisher_exact([[3, 1], [1, 3]]).pvalue)


def test_without_causes_the_errors_are_counted_all_the_same() -> None:
    found = error_breakdown({"A": ANSWERS, "B": ANSWERS.assign(rlvo=1)})
    assert list(found.columns) == ["model", "found", "missed", "needless", "spared"]
    assert found["missed"].tolist() == [4, 0]
    none_known = error_breakdown({"A": ANSWERS}, pd.Series(dtype="str")).iloc[0]
    assert (none_known["icad"], none_known["missed"]) == (0, 4)
    assert pd.isna(none_known["cause_p"])
