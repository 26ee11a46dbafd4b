"""Models A, B and C: what is compared, whom each trains on, and that one opening serves all three."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score
from support.commands import refused, run
from support.made_up_study import PREDICTORS, write_study, write_table
from support.tiny_study import STUDY, write_cohort

from rlvo.cohort.splits import read_split
from rlvo.cohort.variables import CTP, PERFUSION_VOLUMES
from rlvo.config.study import StudyConfig
from rlvo.config.workdir import Workdir
from rlvo.ensemble.build import STUDY_ENSEMBLE, study_ensembles
from rlvo.ensemble.comparison import nested_margins
from rlvo.ensemble.fitting import Validation
from rlvo.progress import no_progress
from rlvo.study.ablation import AblationPlan, write_plan
from rlvo.study.folder import StudyFolder, read_config, read_declared, write_declared
from rlvo.study.inputs import open_study
from rlvo.study.trials import read_ended_trials
from rlvo.training.fit import fit
from rlvo.workflows.ablation_results import read_ablation
from rlvo.workflows.ablation_section import ablation_sections
from rlvo.workflows.ensemble import freeze_ensembles
from rlvo.workflows.study import open_searched_study, read_study

SPACE = {"model.modality": ["NCCT", "CTA"], "model.fusion": ["none", "daft"]}


def declare(folder: StudyFolder) -> None:
    trials = read_ended_trials(folder)
    write_declared(folder, study_ensembles(trials.records, trials.predictions, read_config(folder).ensemble))


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Workdir:
    """A study of 4 configurations, and Model B of its ensemble; nobody comes back."""
    root = tmp_path_factory.mktemp("ablation")
    table, work = write_table(root / "planted-hospital", 90), Workdir.at(root / "work")
    write_study(work.path, table, SPACE)
    a = StudyFolder(work.study("made-up"))
    declare(a)
    chosen = dict.fromkeys(read_declared(a)[STUDY_ENSEMBLE].configurations)
    points: list[dict[str, object]] = [
        {"model.modality": c.model.modality, "model.fusion": c.model.fusion} for c in chosen
    ]
    cohort = {"table": str(table), "predictors": PREDICTORS[:-1]}
    write_study(work.path, table, points, name="made-up-b", signal=0.5, cohort=cohort)
    declare(StudyFolder(work.study("made-up-b")))
    keys = tuple(c.key for c in chosen)
    plan = AblationPlan(
        asked=None, configurations=keys, dropped=(PREDICTORS[-1],), rule="r", recovered=0, b="made-up-b", c="made-up-c"
    )
    write_plan(a, plan)
    return work


def test_both_models_are_compared_on_the_same_patients_out_of_fold(made_up: Workdir) -> None:
    found = read_ablation(read_study("made-up", made_up))
    assert found is not None
    assert found.holdout is None
    assert found.patients["predictors"].tolist() == [4, 3]
    answers = {letter: model.answers for letter, model in found.nested.models.items()}
    assert list(answers["A"].index) == list(answers["B"].index)
    assert (answers["A"]["label"] == answers["B"]["label"]).all()
    test = found.nested.tests["A", "B"]
    right = {letter: own["rlvo"] == own["label"] for letter, own in answers.items()}
    alone = int((right["A"] & ~right["B"]).sum()), int((right["B"] & ~right["A"]).sum())
    assert (test.decisions.only_a, test.decisions.only_b) == alone
    assert test.decisions.p_value == pytest.approx(binomtest(alone[0], sum(alone)).pvalue)
    assert test.decisions_chi2.statistic == pytest.approx((alone[0] - alone[1]) ** 2 / sum(alone))
    for letter, auc in (("A", test.auc.auc_a), ("B", test.auc.auc_b)):
        assert auc == pytest.approx(roc_auc_score(answers[letter]["label"], answers[letter]["score"]))
    errors = found.nested.errors.set_index("model")
    assert errors.loc["A", ["found", "missed"]].sum() == answers["A"]["label"].sum()
    assert errors.loc["B", "needless"] == ((answers["B"]["label"] == 0) & (answers["B"]["rlvo"] == 1)).sum()


def test_model_a_has_no_other_configurations_than_b(made_up: Workdir) -> None:
    found, folder = read_ablation(read_study("made-up", made_up)), StudyFolder(made_up.study("made-up"))
    assert found is not None
    trials, chosen = read_ended_trials(folder), read_declared(folder)[STUDY_ENSEMBLE].configurations
    own = [record for record in trials.records if record.configuration in chosen]
    assert len(own) == 6
    alone = nested_margins(own, Validation.of(trials.predictions), "best_per_modality", "class_rates")
    pd.testing.assert_series_equal(alone["score"].sort_index(), found.nested.models["A"].answers["score"])


def test_nothing_is_shown_before_every_model_is_built(made_up: Workdir) -> None:
    declared = StudyFolder(made_up.study("made-up-b")).declared
    kept = declared.read_bytes()
    declared.unlink()
    assert read_ablation(read_study("made-up", made_up)) is None
    declared.write_bytes(kept)
    assert read_ablation(read_study("made-up-b", made_up)) is None


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_command_trains_compares_and_opens_once(tmp_path: Path) -> None:
    """24 patients: 4 of whom lack all of CT perfusion, and come back in Model C. Each has its own linear member."""
    torch.set_num_threads(1)
    cohort, work = write_cohort(tmp_path / "planted-hospital"), Workdir.at(tmp_path / "work")
    rows = pd.read_csv(cohort)
    lost = [1, 2, 3, 4]
    rows.loc[lost, list(PERFUSION_VOLUMES)] = np.nan
    rows["etiology"] = np.where(rows["rlvo"] == 1, np.where(rows.index % 2 == 0, "icad", "other"), None)
    rows.to_csv(cohort, index=False)
    space = {"enumerate": {"model.modality": ["CTA"], "model.fusion": ["daft"]}}
    others = {"space": space, "ablation": {"drop": CTP}, "ensemble": {"linear_image": "with_table"}}
    config = StudyConfig.model_validate(STUDY.model_dump() | others)
    inputs = open_study(config, cohort, work, progress=no_progress, workers=1)
    for values in config.space.combinations():
        configuration = config.configuration(values)
        for fold in range(2):
            trial = StudyFolder(work.study("tiny")).trial(configuration.key, fold)
            fit(configuration, inputs.fold_data(fold), trial, inputs.identity(configuration.key, fold), seed=fold,
                device="cpu", threads=1)  # fmt: skip
    study = open_searched_study("tiny", work)
    freeze_ensembles(study)
    options = "tiny", "--workdir", work.path, "--json"
    shown = json.loads(run("ablate", *options, "--evaluate").stdout)

    regained = {f"PLANTED-{i:03d}" for i in lost}
    assert (shown["plan"]["dropped"], shown["plan"]["recovered"]) == ([*CTP], 4)
    splits = {
        letter: read_split(StudyFolder(work.study(name)).split)
        for letter, name in zip("ABC", ("tiny", "tiny-b", "tiny-c"), strict=True)
    }
    assert splits["B"] == splits["A"]
    assert {*splits["C"].training_only} == regained
    assert (splits["C"].test, splits["C"].folds) == (splits["A"].test, splits["A"].folds)
    for comparison in (shown["out_of_fold"], shown["hold_out"]):
        assert list(comparison["models"]) == ["A", "B", "C"]
        assert {(test["a"], test["b"]) for test in comparison["paired_tests"]} == {("A", "B"), ("B", "C"), ("A", "C")}
    assert shown["hold_out"]["standing"] == "hold-out"
    [line] = map(json.loads, (work.path / "openings.jsonl").read_text().splitlines())
    assert {"ensemble", "tiny-b: ensemble", "tiny-c: ensemble"} < set(line["ensembles"])
    assert "PLANTED" not in json.dumps(line)

    again = json.loads(run("ablate", *options).stdout)  # nothing is trained, nothing is opened
    assert (again["out_of_fold"], again["hold_out"]) == (shown["out_of_fold"], shown["hold_out"])
    assert "opened before: opening 1" in refused("ablate", *options, "--evaluate")
    assert "tiny-b and tiny-c were begun without other variables" in refused("ablate", *options, "--drop", "ivt")
    [section] = ablation_sections(read_study("tiny", work))
    table = section.exhibits[0].table
    assert section.exhibits[0].name == "table-4"
    assert table["training_only"].tolist() == ["0", "0", "4"]
    assert table["auc"].tolist() == pytest.approx([m["auc"]["value"] for m in shown["hold_out"]["models"].values()])
    assert "PLANTED" not in str([(each.table, each.caption) for each in section.exhibits])
