"""Whom models get wrong: errors of each class, and which causes of an rLVO they find (Table A2, section 3.2)."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.stats import fisher_exact

from rlvo.evaluation.metrics import wilson_interval

CAUSES = ("icad", "other")
"""Levels of `etiology`."""


def error_breakdown(answers: Mapping[str, pd.DataFrame], etiology: pd.Series | None = None) -> pd.DataFrame:
    """Count the right and the wrong decisions of each model.

    Args:
        answers: by model: index patient id, columns `label` and `rlvo`; one row per patient with an answer.
        etiology: one of CAUSES by patient id, missing if unknown; None: it was not recorded.

    Returns:
        One row per model: `model`; `found` and `missed` patients with rLVO, `needless` alerts and `spared` patients
        without; for each cause how many there are (`<cause>`), how many of them are found (`<cause>_found`), and that
        share with its 95 % interval by Wilson (`<cause>_sensitivity`, `_low`, `_high`); `cause_p`: Fisher's exact test
        whether the shares differ, NaN if a cause does not occur.
    """
    return pd.DataFrame([{"model": name, **_row(own, etiology)} for name, own in answers.items()])


def _row(own: pd.DataFrame, etiology: pd.Series | None) -> dict[str, object]:
    is_rlvo, alert = own["label"].to_numpy(int) == 1, own["rlvo"].to_numpy(int) == 1
    row: dict[str, object] = {
        "found": int((is_rlvo & alert).sum()),
        "missed": int((is_rlvo & ~alert).sum()),
        "needless": int((~is_rlvo & alert).sum()),
        "spared": int((~is_rlvo & ~alert).sum()),
    }
    if etiology is None:
        return row
    cause, counts = etiology.reindex(own.index), []
    for name in CAUSES:
        of_cause = (cause == name).to_numpy(bool, na_value=False) & is_rlvo
        count, found = int(of_cause.sum()), int((of_cause & alert).sum())
        low, high = wilson_interval(found, count)
        row |= {name: count, f"{name}_found": found, f"{name}_sensitivity": found / count if count else np.nan}
        row |= {f"{name}_sensitivity_low": low, f"{name}_sensitivity_high": high}
        counts.append((found, count - found))
    is_tested = all(map(sum, counts))
    return row | {"cause_p": float(fisher_exact(counts).pvalue) if is_tested else np.nan}
