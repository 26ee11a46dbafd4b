import numpy as np
import pandas as pd

from rlvo.cohort.pseudonym import pseudonym
from rlvo.cohort.selection import REFUSED, FlowStep, flow, select_patients
from rlvo.config.predictors import PAPER_PREDICTORS

CTP_VOLUMES = {"cbf_lt30_ml": 1.0, "tmax_gt4_ml": 4.0, "tmax_gt6_ml": 3.0, "tmax_gt10_ml": 2.0}


def checked(patients: dict[str, dict[str, object]], **common: object) -> pd.DataFrame:
    """A checked table: CTP volumes, what the patients have in common, and what each has instead."""
    return pd.DataFrame({p: {**CTP_VOLUMES, **common, **own} for p, own in patients.items()}).T


def removed(table: pd.DataFrame, predictors: tuple[str, ...] = PAPER_PREDICTORS) -> dict[str, tuple[str, ...]]:
    return {exclusion.rule: exclusion.patients for exclusion in select_patients(table, predictors).excluded}


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
    table = checked(
        patients, dsa_occlusion=1, synchronous_occlusions=0, severe_artifact=np.nan, ncct="n.nii.gz", cta="c.nii.gz"
    )
    assert removed(table) == {
        "no occlusion on DSA": ("a",),
        "synchronous occlusions": ("b",),
        "severe artefacts": ("c",),
        "NCCT or CTA missing": ("d",),
        "more than 3 CTP variables missing": ("e",),
    }
    assert select_patients(table, PAPER_PREDICTORS).included == ("f",)


def test_ctp_variables_are_counted_with_the_derived_ones() -> None:
    # Without Tmax > 6 s three are missing (itself, HIR, ratio); another volume makes it more than three.
    table = checked({"three": {"tmax_gt6_ml": np.nan}, "four": {"tmax_gt6_ml": np.nan, "cbf_lt30_ml": np.nan}})
    assert removed(table) == {"more than 3 CTP variables missing": ("four",)}


def test_model_c_keeps_the_order_and_regains_the_patients_excluded_for_ctp() -> None:
    patients = {f"p{i}": (dict.fromkeys(CTP_VOLUMES, np.nan) if i % 3 == 0 else {}) for i in range(9)}
    table = checked(patients, synchronous_occlusions=0.0)
    with_ctp, without = select_patients(table, PAPER_PREDICTORS), select_patients(table, ("age", "sex"))
    assert [p for p in without.included if p in with_ctp.included] == list(with_ctp.included)
    assert set(without.included) - set(with_ctp.included) == {"p0", "p3", "p6"}


def test_failed_registrations_come_between_missing_scans_and_ctp_values() -> None:
    patients = {"a": {}, "b": {}, "c": {"cta": None}, "d": dict.fromkeys(CTP_VOLUMES, np.nan), "e": {}}
    selection = select_patients(checked(patients, ncct="n", cta="c"), PAPER_PREDICTORS)
    refused = selection.without({"b", "c"})
    assert [(e.rule, e.patients) for e in refused.excluded] == [
        ("NCCT or CTA missing", ("c",)),
        ("volumes unreadable or registration failed", ("b",)),
        ("more than 3 CTP variables missing", ("d",)),
    ]
    assert (refused.included, refused.considered) == (("a", "e"), 5)
    assert selection.without(()) == selection
    tabular = select_patients(checked({"a": {}, "b": {}}), ("age",)).without(["a"])
    assert [(e.rule, e.patients) for e in tabular.excluded] == [(REFUSED, ("a",))]


def test_the_flow_adds_up_and_names_patients_only_by_pseudonym() -> None:
    table = checked({"a": {"dsa_occlusion": 0}, "b": {"synchronous_occlusions": 1}, "c": {}, "d": {}, "e": {}},
                     dsa_occlusion=1, synchronous_occlusions=0)  # fmt: skip
    selection, key = select_patients(table, ("age",)), bytes(32)
    assert (selection.considered, len(selection.included)) == (5, 3)
    assert flow(selection, key) == (
        FlowStep("no occlusion on DSA", 1, 4, (pseudonym("a", key),)),
        FlowStep("synchronous occlusions", 1, 3, (pseudonym("b", key),)),
    )


def test_a_tabular_cohort_has_no_imaging_exclusions() -> None:
    assert removed(checked({"a": {"severe_artifact": 1}}), ("age",)) == {}


def test_only_the_predictors_own_ctp_variables_can_count() -> None:
    nothing = dict.fromkeys(CTP_VOLUMES, np.nan)
    patients = {
        "whole": {},
        "nothing": nothing,
        "core": nothing | {"cbf_lt30_ml": 1.0},
        "core and penumbra": nothing | {"cbf_lt30_ml": 1.0, "tmax_gt6_ml": 3.0},
    }
    table = checked(patients)
    kept = ("age", "cbf_lt30_ml", "tmax_gt6_ml")
    of_all = select_patients(table, kept)
    assert of_all.included == ("whole",)
    assert select_patients(table, kept, only_theirs=True).excluded[-1].patients == ("nothing",)
    assert select_patients(table, ("age", "hir"), only_theirs=True).included == ("whole",)  # HIR takes two volumes
    assert select_patients(table, ("age",), only_theirs=True).included == tuple(patients)
    assert select_patients(table, PAPER_PREDICTORS, only_theirs=True) == select_patients(table, PAPER_PREDICTORS)
