import pytest

from rlvo.cohort.variables import CTP, VARIABLES, check_predictors, known_after_procedure, source_columns
from rlvo.config.predictors import PAPER_PREDICTORS
from rlvo.errors import RlvoError


def test_the_papers_predictors_can_be_predictors() -> None:
    check_predictors(PAPER_PREDICTORS)
    assert len(CTP) == 6
    assert set(CTP) < set(PAPER_PREDICTORS)


@pytest.mark.parametrize("name", [v.name for v in VARIABLES.values() if v.role != "predictor"])
def test_a_column_that_cannot_be_a_predictor_is_refused_by_name(name: str) -> None:
    with pytest.raises(RlvoError, match=name):
        check_predictors(("age", name))


def test_everything_wrong_with_predictors_is_reported_at_once() -> None:
    check_predictors(("aspects",), scores=True)
    with pytest.raises(RlvoError, match="siphon is not a variable that rlvo knows; a study can declare it"):
        check_predictors(("siphon",))
    names = ("etici", "age", "rlvo", "agee", "aspects", "age")
    says = (
        r"etici is an outcome, known only after.*rlvo is an outcome.*agee .*mean 'age'.*aspects can be .*baselines only"
    )
    with pytest.raises(RlvoError, match=f"{says}.*age is listed twice"):
        check_predictors(names)


def test_derived_predictors_need_their_inputs_once() -> None:
    assert source_columns(("tmax_gt6_ml", "hir", "tmax4_tmax6_ratio")) == ("tmax_gt6_ml", "tmax_gt10_ml", "tmax_gt4_ml")


@pytest.mark.parametrize(
    "name",
    ["mTICI", "TICI postinterventional", "mRS 3 months", "mrs90", "NIHSS_24h", "nihss discharge", "passes",
     "number of passes", "first_pass_effect", "recanalization", "recanalisation_time", "final infarct ml", "sICH",
     "groin_to_reperfusion", "stenting", "rescue", "death", "follow-up", "day_7_volume", "etici", "etiology"],
)  # fmt: skip
def test_names_of_outcomes_are_refused_as_predictors(name: str) -> None:
    assert known_after_procedure(name)
    with pytest.raises(RlvoError, match="known only after the procedure"):
        check_predictors(("age", name))


@pytest.mark.parametrize(
    "name", ["nihss", "NIHSS at admission", "mRS premorbid", "pre-stroke mRS", "previous infarct", "age", "glucose",
             "Door to imaging", "smoking status", "compass"],
)  # fmt: skip
def test_names_of_what_is_known_before_the_procedure_are_not_outcomes(name: str) -> None:
    assert not known_after_procedure(name)
