from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.tiny_study import TinyStudy

from rlvo.config.predictors import PAPER_PREDICTORS
from rlvo.config.sections import EnsembleConfig
from rlvo.ensemble.build import study_ensembles
from rlvo.errors import RlvoError
from rlvo.study.folder import read_config, write_declared
from rlvo.study.trials import EndedTrials
from rlvo.workflows.importance import variable_importance
from rlvo.workflows.study import OpenStudy


@pytest.fixture
def opened(study: TinyStudy, trials: EndedTrials, tmp_path: Path) -> OpenStudy:
    own = study.copy(tmp_path / "work")
    write_declared(
        own.folder, study_ensembles(trials.records, trials.predictions, EnsembleConfig(chance_members="count"))
    )
    return OpenStudy(read_config(own.folder), own.workdir, own.inputs)


@pytest.mark.slow
def test_a_study_ranks_its_predictors_on_validation_patients(opened: OpenStudy) -> None:
    found, again = (
        variable_importance(opened, "resnet18 daft", shuffles=2, explained=2, background=3) for _ in range(2)
    )
    table = found.table
    assert set(table.index) == set(PAPER_PREDICTORS)
    assert table["absolute_contribution"].sum() == pytest.approx(1)
    assert np.isfinite(table.to_numpy()).all()
    assert (table["mean_rank"].diff().dropna() >= 0).all()
    assert (found.scale + found.shift)[table.index].to_numpy() == pytest.approx(table["absolute_contribution"])
    assert set(found.individual.index) == set(opened.inputs.split.development)
    assert len(found.members) == 6
    assert found.agreement.shape == (3, 3)
    pd.testing.assert_frame_equal(table, again.table)


@pytest.mark.slow
def test_an_ensemble_without_the_table_and_an_unknown_one_are_refused(opened: OpenStudy) -> None:
    with pytest.raises(RlvoError, match="no member of this ensemble reads the table"):
        variable_importance(opened, "resnet18 none")
    with pytest.raises(RlvoError, match="declares no ensemble 'densenet'") as refused:
        variable_importance(opened, "densenet")
    assert "resnet18 daft" in str(refused.value)
