"""Subgroups as a table: every level with its counts, every test with its p or the reason why there is none."""

import numpy as np
import pandas as pd
from rich.console import Console

from rlvo.evaluation.subgroups import subgroup
from rlvo.report.subgroups import subgroup_table


def test_levels_counts_and_tests_are_shown() -> None:
    random = np.random.default_rng(0)
    label = np.arange(120) % 2
    score = label + random.normal(size=120)
    vote = (score > 0.5).astype(int)
    sex = pd.Series(np.where(np.arange(120) < 90, "F", "M"))
    site = pd.Series(["M1"] * 118 + ["M2"] * 2)
    shown = [subgroup("sex", sex, label, score, vote), subgroup("occlusion_site", site, label, score, vote)]
    console = Console(record=True, width=160)
    console.print(subgroup_table(shown, title="groups"))
    text = console.export_text()
    women = shown[0].levels.set_index("level").loc["F"]
    assert "Sex: F" in text
    assert "90 (45)" in text
    assert f"{women['auc']:.2f} ({women['auc_low']:.2f}–{women['auc_high']:.2f})" in text
    assert "AUC p" in text
    assert "M2: only 1 with rLVO" in text
