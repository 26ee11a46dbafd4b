from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from rlvo.cohort.pseudonym import pseudonym
from rlvo.cohort.reading import Cohort
from rlvo.cohort.selection import flow, select
from rlvo.config.study import PAPER_PREDICTORS

VOLUMES = {"cbf_lt30_ml": 1.0, "tmax_gt4_ml": 4.0, "tmax_gt6_ml": 3.0, "tmax_gt10_ml": 2.0}


def cohort(patients: dict[str, dict[str, object]], **common: object) -> Cohort:
    return Cohort(pd.DataFrame({p: {**VOLUMES, **common, **own} for p, own in patients.items()}).T, Path("."))


def removed(cohort: Cohort, predictors: tuple[str, ...] = PAPER_PREDICTORS) -> dict[str, tuple[str, ...]]:
    return {exclusion.rule: exclusion.patients for exclusion in select(cohort, predictors).excluded}


def test_rules_apply_in_order_and_each_patient_leaves_once() -> None:
    everything_wrong = {"dsa_occlusion": 0, "synchronous_occlusions": 1, "severe_artifact": 1, "ncct": None}
    patients = {
        "a": everything_wrong,
        "b": {**everything_wrong, "dsa_occlusion": 1},
        "c": {"severe_artifact": 1, "cta": None},
        "d": {"cta": None},
        "e": {"tmax_gt4_ml": np.nan, "tmax_gt6_ml": np.nan},
        "f": {},
    }
    checked = cohort(
        patients, dsa_occlusion=1, synchronous_occlusions=0, severe_artifact=np.nan, ncct="n.nii.gz", cta="c.nii.gz"
    )
    assert removed(checked) == {
        "no occlusion on DSA": ("a",),
        "synchronous occlusions": ("b",),
        "severe artefacts": ("c",),
        "NCCT or CTA missing": ("d",),
        "more than 3 CTP variables missing": ("e",),
    }
    assert select(checked, PAPER_PREDICTORS).included == ("f",)


def test_ctp_variables_are_counted_with_the_derived_ones() -> None:
    # Without Tmax > 6 s three are missing (itself, HIR, ratio); another volume makes it more than three.
    checked = cohort({"three": {"tmax_gt6_ml": np.nan}, "four": {"tmax_gt6_ml": np.nan, "cbf_lt30_ml": np.nan}})
    assert removed(checked) == {"more than 3 CTP variables missing": ("four",)}


def test_patients_come_back_when_no_ctp_variable_is_used() -> None:
    checked = cohort({"a": dict.fromkeys(VOLUMES, np.nan)})
    assert removed(checked) == {"more than 3 CTP variables missing": ("a",)}
    assert removed(checked, ("age", "nihss")) == {}


def test_model_c_keeps_the_order_of_the_others_and_gains_whom_ctp_excluded() -> None:
    patients = {f"p{i}": (dict.fromkeys(VOLUMES, np.nan) if i % 3 == 0 else {}) for i in range(9)}
    checked = cohort(patients, synchronous_occlusions=0.0)
    with_ctp, without = select(checked, PAPER_PREDICTORS), select(checked, ("age", "sex"))
    assert [p for p in without.included if p in with_ctp.included] == list(with_ctp.included)
    assert set(without.included) - set(with_ctp.included) == {"p0", "p3", "p6"}


def test_failed_registrations_come_between_missing_scans_and_ctp_values() -> None:
    checked = cohort({"a": {}, "b": dict.fromkeys(VOLUMES, np.nan), "c": {"cta": None}}, ncct="n", cta="c")
    selection = select(checked, PAPER_PREDICTORS, refused=["b", "c"])
    assert [(e.rule, e.patients) for e in selection.excluded] == [
        ("NCCT or CTA missing", ("c",)),
        ("volumes unreadable or registration failed", ("b",)),
        ("more than 3 CTP variables missing", ()),
    ]


def test_the_flow_adds_up_and_names_patients_by_pseudonym_only() -> None:
    checked = cohort({"a": {"dsa_occlusion": 0}, "b": {"synchronous_occlusions": 1}, "c": {}, "d": {}, "e": {}},
                     dsa_occlusion=1, synchronous_occlusions=0)  # fmt: skip
    selection, key = select(checked, ("age",)), bytes(32)
    steps = flow(selection, key)
    assert selection.considered == 5
    assert [(step.rule, step.excluded, step.remaining) for step in steps] == [
        ("no occlusion on DSA", 1, 4),
        ("synchronous occlusions", 1, 3),
    ]
    assert steps[-1].remaining == len(selection.included)
    assert steps[0].pseudonyms == (pseudonym("a", key),)


def test_a_tabular_cohort_has_no_imaging_exclusions() -> None:
    assert removed(cohort({"a": {"severe_artifact": 1}}), ("age",)) == {}
