"""What the ended trials of a study left, on disk as a search leaves it: whole, damaged, missing."""

from pathlib import Path

import pytest
from support.stored_predictions import FOLDS, THREE, configuration, record, stored

from rlvo.config.study import EnsembleConfig
from rlvo.ensemble.build import study_ensembles
from rlvo.errors import RlvoError
from rlvo.evaluation.predictions import write_predictions
from rlvo.files import file_sha256
from rlvo.study.folder import EndedTrials, StudyFolder, read_ended_trials
from rlvo.training.records import PREDICTIONS, RECORD, write_record

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
            files = {PREDICTIONS: file_sha256(folder / PREDICTIONS)}
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
