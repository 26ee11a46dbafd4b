"""Models B and C as studies: their configurations, and exactly whom each of them trains and tests."""

from pathlib import Path

import pandas as pd
import pytest
from support.small_study import MakeStudy, OpenStudy

from rlvo.cohort.variables import CTP, PERFUSION_VOLUMES
from rlvo.config.predictors import PAPER_PREDICTORS
from rlvo.config.study import StudyConfig
from rlvo.errors import RlvoError
from rlvo.registry.register import provenance
from rlvo.study.ablation import AblationPlan, read_plan, reduced_study, write_plan
from rlvo.study.folder import StudyFolder

SPACE = {
    "enumerate": {"model.modality": ["NCCT", "CTA"], "model.fusion": ["none", "daft"]},
    "sample": {
        "model.daft.bottleneck_ratio": {"choices": [3, 7]},
        "training.learning_rate": {"low": 1e-4, "high": 0.1},
    },
}


def test_a_reduced_study_has_the_configurations_and_nothing_else_changes() -> None:
    study = StudyConfig.model_validate({"name": "a", "space": SPACE, "search": {"sampler": "tpe"}, "seed": 3})
    image = study.configuration({"model.fusion": "none", "model.modality": "NCCT", "training.learning_rate": 0.01})
    both = {"model.fusion": "daft", "model.modality": "CTA", "training.learning_rate": 0.02}
    table = study.configuration({**both, "model.daft.bottleneck_ratio": 3})
    found = reduced_study(study, "a-b", CTP, [image, table, image])
    assert [found.configuration(point) for point in found.grid_points()] == [image, table]
    assert found.cohort.predictors == tuple(p for p in PAPER_PREDICTORS if p not in CTP)
    assert (found.folds.of_study, found.folds.others, found.seed) == ("a", "leave_out", 3)
    assert StudyConfig.model_validate_json(found.model_dump_json()) == found  # as it is frozen
    back = {"name": "a", "cohort": study.cohort, "space": study.space, "search": study.search, "folds": study.folds}
    assert found.model_copy(update=back) == study


def test_hashes_of_studies_without_an_ablation_stay_and_its_settings_are_no_part_of_them() -> None:
    study = StudyConfig(name="a")
    assert not {"ablation", "of_study", "others", "points"} & set(str(study.model_dump(mode="json")).split("'"))
    named = StudyConfig.model_validate({"name": "a", "ablation": {"drop": ["hir"]}})
    assert provenance(named)["study_hash"] == provenance(study)["study_hash"]


def test_a_plan_reads_back_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    assert read_plan(folder) is None
    plan = AblationPlan(
        asked=None, configurations=("k",), dropped=("hir",), rule="r", ranking=({"predictor": "hir", "auc_drop": 0.1},),
        recovered=0, b="a-b", c="a-c",
    )  # fmt: skip
    write_plan(folder, plan)
    assert read_plan(folder) == plan
    assert plan.models == {"B": "a-b"}
    assert plan.model_copy(update={"recovered": 2}).models == {"B": "a-b", "C": "a-c"}
    folder.ablation.write_text("{")
    with pytest.raises(RlvoError, match="damaged"):
        read_plan(folder)


@pytest.fixture
def table(small_cohort: Path) -> Path:
    """The cohort beside its volumes, with patients who are excluded for known reasons."""
    rows = pd.read_csv(small_cohort, dtype=str)
    no_ctp = [1, 2, 3, 4, 5, 6]
    rows.loc[no_ctp, list(PERFUSION_VOLUMES)] = None
    rows["severe_artifact"] = "0"
    rows.loc[1, "severe_artifact"] = "1"  # excluded anyway
    rows.loc[2, "rlvo"] = None  # cannot train
    rows["person"] = None
    rows.loc[[3, 9], "person"] = "one person"  # the other row is in the study
    rows.loc[7, ["tmax_gt10_ml"]] = None  # two CTP variables: never excluded
    path = small_cohort.with_name("ablation.csv")
    rows.to_csv(path, index=False)
    return path


def test_model_b_has_a_s_patients_and_model_c_regains_exactly_those_excluded_for_what_was_dropped(
    make_small: MakeStudy, open_small: OpenStudy, table: Path
) -> None:
    predictors = ("age", "sex", "nihss", *CTP)
    a = make_small("a", cohort={"predictors": predictors})
    model = a.configuration({})
    of_a = open_small(a, table)
    of_b = open_small(reduced_study(a, "a-b", CTP, [model]), table)
    c = reduced_study(a, "a-c", CTP, [model], train_others=True)
    of_c, again = open_small(c, table), open_small(c, table)
    excluded = {f"PLANTED-{i:03d}" for i in (1, 2, 3, 4, 5, 6)}
    assert {*of_a.table.index} == {f"PLANTED-{i:03d}" for i in range(24)} - excluded
    assert (of_b.split, of_b.split.hash) == (of_a.split, of_a.split.hash)
    assert {*of_b.table.index} == {*of_a.table.index}
    recovered = ("PLANTED-004", "PLANTED-005", "PLANTED-006")
    assert of_c.split.training_only == recovered
    assert (of_c.split.test, of_c.split.folds) == (of_a.split.test, of_a.split.folds)
    assert {*of_c.table.index} == {*of_a.table.index, *recovered}
    for fold in range(2):
        theirs, ours = of_a.fold_data(fold), of_c.fold_data(fold)
        assert ours.validation.ids == theirs.validation.ids
        assert {*ours.training.ids} == {*theirs.training.ids, *recovered}
        assert of_b.fold_data(fold).training.ids == theirs.training.ids
    assert again.split == of_c.split
    assert "recovered, but without an outcome" in {each.rule for each in of_c.excluded}
    assert of_a.label[list(of_a.split.test)].equals(of_c.label[list(of_c.split.test)])


def test_a_part_of_ct_perfusion_regains_whom_the_rest_was_measured_for(
    make_small: MakeStudy, open_small: OpenStudy, small_cohort: Path
) -> None:
    rows = pd.read_csv(small_cohort, dtype=str)
    rows.loc[[1, 2], list(PERFUSION_VOLUMES)] = None
    rows.loc[[2], "cbf_lt30_ml"] = "4"
    path = small_cohort.with_name("part.csv")
    rows.to_csv(path, index=False)
    a = make_small("a", cohort={"predictors": ("age", *CTP)})
    open_small(a, path)
    dropped = tuple(name for name in CTP if name != "cbf_lt30_ml")
    of_c = open_small(reduced_study(a, "a-c", dropped, [a.configuration({})], train_others=True), path)
    assert of_c.split.training_only == ("PLANTED-002",)


def test_who_comes_back_without_a_vessel_mask_is_left_out_if_models_need_one(
    make_small: MakeStudy, open_small: OpenStudy, small_cohort: Path
) -> None:
    rows = pd.read_csv(small_cohort, dtype=str)
    rows.loc[[1, 2], list(PERFUSION_VOLUMES)] = None
    rows.loc[1, "vessels"] = None  # and the CTA is too coarse to find vessels in
    path = small_cohort.with_name("vessels.csv")
    rows.to_csv(path, index=False)
    a = make_small("a", cohort={"predictors": ("age", *CTP)}, space={"enumerate": {"model.prior": [True]}})
    open_small(a, path)
    of_c = open_small(reduced_study(a, "a-c", CTP, [a.configuration({"model.prior": True})], train_others=True), path)
    assert of_c.split.training_only == ("PLANTED-002",)
    assert [*of_c.refused] == ["PLANTED-001"]


def test_networks_that_are_shown_the_affected_side_cannot_go_without_it() -> None:
    study = StudyConfig.model_validate({"name": "a", "model": {"side": "halves"}})
    assert "occlusion_side" in reduced_study(study, "a-b", ["age"], [study.configuration({})]).cohort.predictors
    with pytest.raises(RlvoError, match="cannot go without occlusion_side"):
        reduced_study(study, "a-b", ["occlusion_side"], [study.configuration({})])
    cropped = StudyConfig.model_validate({"name": "a", "model": {"crop": "occlusion"}})
    for needed in ("occlusion_side", "occlusion_site"):
        with pytest.raises(RlvoError, match=rf"look at the occlusion \(model\.crop\) and cannot go without {needed}"):
            reduced_study(cropped, "a-b", ["age", needed], [cropped.configuration({})])
