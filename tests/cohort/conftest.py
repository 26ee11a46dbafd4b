"""A small, sound cohort to start from."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

BINARIES = ("hypertension", "dyslipidemia", "diabetes", "smoking", "atrial_fibrillation", "ivt", "unwitnessed_onset")


@pytest.fixture
def rows() -> pd.DataFrame:
    """40 patients, every predictor and outcome, as text; 12 rLVO."""
    random = np.random.default_rng(3)
    n = 40
    tmax6 = random.uniform(20, 200, n).round(1)
    columns: dict[str, object] = {
        "patient_id": [f"{i:03d}" for i in range(n)],
        "age": random.integers(40, 95, n),
        "sex": random.choice(["F", "M"], n),
        **{name: random.integers(0, 2, n) for name in BINARIES},
        "nihss": random.integers(0, 30, n),
        "occlusion_side": random.choice(["left", "right"], n),
        "occlusion_site": random.choice(["TICA", "M1", "M2"], n),
        "cbf_lt30_ml": random.uniform(0, 40, n).round(1),
        "tmax_gt4_ml": (tmax6 * 2).round(1),
        "tmax_gt6_ml": tmax6,
        "tmax_gt10_ml": (tmax6 / 4).round(1),
        "aspects": random.integers(5, 11, n),
        "final_stenosis_pct": [80 if i % 10 < 2 else 20 for i in range(n)],
        "etici": ["2a" if i % 10 == 2 else "2c" for i in range(n)],
        "rescue_treatment": [int(i % 10 == 1) for i in range(n)],
    }
    return pd.DataFrame(columns).astype(str)
