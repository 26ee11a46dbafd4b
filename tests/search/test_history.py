"""What Optuna kept of a search is read again, without a change to it, and its own evaluators rank hyperparameters."""

from collections.abc import Callable

import pytest
from support.study_on_disk import StudyOnDisk

from rlvo.errors import RlvoError
from rlvo.search.history import EVALUATORS, read_history
from rlvo.search.proposals import Proposals


def test_the_proposals_are_read_in_order_and_nothing_is_written(new_study: Callable[..., StudyOnDisk]) -> None:
    study = new_study()
    assert read_history(study.config, study.folder) is None
    assert not study.folder.journal.exists()
    proposals = Proposals(study.config, study.folder)
    for _ in range(4):
        proposal = proposals.propose()
        is_daft = proposal.configuration.model.fusion == "daft"
        objective = 0.5 + 0.3 * is_daft + 0.001 * proposal.number
        proposals.tell(proposal, None if proposal.number == 3 else objective)
    written = study.folder.journal.read_bytes()
    found = read_history(study.config, study.folder)
    assert found is not None
    assert study.folder.journal.read_bytes() == written
    assert found.proposals["number"].tolist() == [0, 1, 2, 3]
    assert found.proposals["state"].tolist() == ["finished"] * 3 + ["failed"]
    assert found.proposals["objective"].isna().tolist() == [False] * 3 + [True]
    assert set(found.proposals["model.fusion"]) == {"none", "daft"}
    assert list(found.importance) == ["parameter", *EVALUATORS]
    assert found.importance["parameter"][0] == "model.fusion"
    for name in EVALUATORS:
        assert found.importance[name].sum() == pytest.approx(1)


def test_the_slow_evaluator_is_left_out_of_a_large_study(
    new_study: Callable[..., StudyOnDisk], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = new_study()
    proposals = Proposals(study.config, study.folder)
    for objective in (0.5, 0.6, 0.8):
        proposals.tell(proposals.propose(), objective)
    found = []
    for most in (3, 2):
        monkeypatch.setattr("rlvo.search.history.MOST", most)
        history = read_history(study.config, study.folder)
        assert history is not None
        found.append(history.importance.set_index("parameter"))
    whole, others = found
    assert [*whole] == ["fANOVA", "PED-ANOVA", "mean decrease in impurity"]
    assert others.loc[whole.index].equals(whole[["PED-ANOVA", "mean decrease in impurity"]])


def test_too_little_to_compare_and_a_damaged_journal(new_study: Callable[..., StudyOnDisk]) -> None:
    study = new_study()
    proposals = Proposals(study.config, study.folder)
    proposals.tell(proposals.propose(), 0.6)
    found = read_history(study.config, study.folder)
    assert found is not None
    assert len(found.importance) == 0
    lines = study.folder.journal.read_bytes().splitlines()
    study.folder.journal.write_bytes(b"\n".join([lines[0], b"{broken", *lines[1:]]) + b"\n")
    with pytest.raises(RlvoError, match="damaged"):
        read_history(study.config, study.folder)
