"""What the ended trials of a study left, on disk as a search leaves it: whole, damaged, missing."""

import shutil
from pathlib import Path

import pytest
from support.stored_predictions import FOLDS, THREE, configuration, record, stored

from rlvo.config.sections import EnsembleConfig
from rlvo.config.study import StudyConfig
from rlvo.ensemble.build import study_ensembles
from rlvo.errors import RlvoError
from rlvo.evaluation.predictions import write_predictions
from rlvo.files import atomic_write, file_sha256
from rlvo.study.folder import StudyFolder, read_config, write_config
from rlvo.study.trials import EndedTrials, altered_weights, read_ended_trials
from rlvo.training.records import BEST_WEIGHTS, PREDICTIONS, RECORD, write_record

OTHER = configuration("CTA", "none")


@pytest.fixture
def study(tmp_path: Path) -> StudyFolder:
    """The finished trials of THREE and OTHER."""
    study = StudyFolder(tmp_path)
    predictions = stored([*THREE, OTHER]).query("split == 'validation'")
    for config in (*THREE, OTHER):
        for fold in range(FOLDS):
            folder = study.trial(config.key, fold)
            write_predictions(predictions[predictions["member"] == f"{config.key}-f{fold}"], folder / PREDICTIONS)
            (folder / BEST_WEIGHTS).parent.mkdir()
            (folder / BEST_WEIGHTS).write_text(config.key)
            files = {name: file_sha256(folder / name) for name in (PREDICTIONS, BEST_WEIGHTS)}
            ended = record(config, fold, 0.8 if config is OTHER else 0.7)
            write_record(folder, ended.model_copy(update={"files": files}))
    return study


def members(trials: EndedTrials, *, partial: bool = True) -> list[str]:
    """Labels of the study's own ensemble."""
    specs = study_ensembles(
        trials.records, trials.predictions, EnsembleConfig(), missing=trials.missing, partial=partial
    )
    return [c.label for c in specs["ensemble"].configurations]


def test_a_whole_study_lacks_nothing(study: StudyFolder) -> None:
    trials = read_ended_trials(study)
    assert (len(trials.records), trials.missing) == (4 * FOLDS, ())
    assert members(trials, partial=False) == [THREE[0].label, OTHER.label, THREE[2].label]


@pytest.mark.parametrize("damage", ["lost", "altered", "record"])
def test_a_lost_or_altered_file_is_named_and_its_configuration_left_out(study: StudyFolder, damage: str) -> None:
    folder = study.trial(OTHER.key, 2)
    name = RECORD if damage == "record" else PREDICTIONS
    if damage == "lost":
        (folder / name).unlink()
    else:
        content = (folder / name).read_text()
        (folder / name).write_text(content.replace("7", "8", 1))
    trials = read_ended_trials(study)
    assert trials.missing == (f"trials/{OTHER.key}/fold-2/{name}: the file is missing or altered",)
    with pytest.raises(
        RlvoError, match=f"fold-2/{name}: the file is missing or altered.*{OTHER.key}.*no usable fold 2.*--partial"
    ):
        members(trials, partial=False)
    assert members(trials) == [c.label for c in THREE]


def test_weights_are_compared_with_the_record_once_they_are_chosen(study: StudyFolder) -> None:
    """Those that nobody chooses only have to be there."""
    trials = read_ended_trials(study)
    chosen = study_ensembles(trials.records, trials.predictions, EnsembleConfig())
    assert altered_weights(study, trials, chosen) == {}
    (study.trial(THREE[1].key, 0) / BEST_WEIGHTS).write_text("altered")
    (study.trial(OTHER.key, 2) / BEST_WEIGHTS).write_text("altered")
    trials = read_ended_trials(study)
    assert (len(trials.records), trials.missing) == (4 * FOLDS, ())
    own = {"ensemble": chosen["ensemble"]}
    ((member, why),) = altered_weights(study, trials, own).items()
    assert (member.configuration, member.fold) == (OTHER, 2), "THREE[1] is not in it"
    assert why == f"trials/{OTHER.key}/fold-2/{BEST_WEIGHTS}: the file is missing or altered"
    left = trials.without({member: why})
    assert left.missing == (why,)
    assert (len(left.records), set(left.predictions["member"]) ^ set(trials.predictions["member"])) == (
        4 * FOLDS - 1,
        {f"{OTHER.key}-f2"},
    )
    assert members(left) == [c.label for c in THREE]
    with pytest.raises(RlvoError, match=r"fold-2/best/model\.safetensors: the file is missing or altered"):
        members(left, partial=False)
    (study.trial(OTHER.key, 2) / BEST_WEIGHTS).unlink()
    assert read_ended_trials(study).missing == (why,)


def test_a_configuration_that_was_started_and_has_no_fold_is_named(study: StudyFolder) -> None:
    for fold in range(FOLDS):
        (study.trial(OTHER.key, fold) / RECORD).unlink()
    trials = read_ended_trials(study)
    assert trials.missing == (f"trials/{OTHER.key}: no fold has ended",)
    with pytest.raises(RlvoError, match=OTHER.key):
        members(trials, partial=False)
    assert members(trials) == [c.label for c in THREE]


def test_nothing_finished(study: StudyFolder) -> None:
    for folder in study.trials():
        (folder / RECORD).unlink()
    with pytest.raises(RlvoError, match=r"no trial of this study has finished.*rlvo search"):
        read_ended_trials(study)


def table_after_moving(tmp_path: Path, table: Path, *, copied: bool = False, earlier: bool = False) -> Path | None:
    """Where a study's table is looked for once its work folder was moved from `before` to `after`."""
    config = StudyConfig.model_validate({"name": "moved", "cohort": {"table": table}})
    study = StudyFolder(tmp_path / "before" / "studies" / "moved")
    table.parent.mkdir(parents=True, exist_ok=True)
    table.write_text("patient_id\n")
    if earlier:  # versions up to .1 noted the whole path
        atomic_write(study.config, config.model_dump_json())
    else:
        write_config(study, config)
    assert read_config(study).cohort.table == table
    (shutil.copytree if copied else shutil.move)(tmp_path / "before", tmp_path / "after")
    return read_config(StudyFolder(tmp_path / "after" / "studies" / "moved")).cohort.table


@pytest.mark.parametrize("name", ["cohort/cohort.csv", "cohort é/a?1%41#[0].csv"])
@pytest.mark.parametrize("earlier", [False, True])
def test_a_table_in_the_work_folder_moves_with_it(tmp_path: Path, name: str, earlier: bool) -> None:
    assert table_after_moving(tmp_path, tmp_path / "before" / name, earlier=earlier) == tmp_path / "after" / name


def test_a_copy_has_its_own_table(tmp_path: Path) -> None:
    table = tmp_path / "before" / "cohort" / "cohort.csv"
    assert table_after_moving(tmp_path, table, copied=True) == tmp_path / "after" / "cohort" / "cohort.csv"


def test_a_table_elsewhere_stays_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "before" / "cohort").mkdir(parents=True)
    (tmp_path / "before" / "cohort" / "cohort.csv").write_text("another\n")
    assert table_after_moving(tmp_path, tmp_path / "cohort" / "cohort.csv") == tmp_path / "cohort" / "cohort.csv"
