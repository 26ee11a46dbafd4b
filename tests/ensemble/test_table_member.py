"""The table's model as a member: late fusion against hand computation, planted signal, and noise."""

import numpy as np
import pandas as pd
import pytest
from support.stored_predictions import FOLDS, THREE, fitted, records_of, stored, with_table

from rlvo.config.base import content_hash
from rlvo.config.study import EnsembleConfig
from rlvo.ensemble.build import fit_fallbacks, score_out_of_fold, study_ensembles
from rlvo.ensemble.comparison import compare_ensembles
from rlvo.ensemble.fitting import Validation
from rlvo.ensemble.selection import Selection, greedy, rank_configurations
from rlvo.ensemble.spec import TABLE, EnsembleSpec, TableMember
from rlvo.errors import RlvoError
from rlvo.training.table_model import table_member_key

LATE = EnsembleConfig(table_member="ridge", weighting="mean")


def built(predictions: pd.DataFrame, settings: EnsembleConfig = LATE) -> dict[str, EnsembleSpec]:
    return study_ensembles(records_of(predictions, THREE), predictions, settings)


def test_the_mean_counts_the_table_like_a_network() -> None:
    predictions = with_table(stored(THREE))
    spec = built(predictions)["ensemble"]
    assert spec.contenders == (*THREE, TABLE)
    assert spec.configurations == tuple(THREE)
    own = predictions[predictions["split"] == "validation"]
    assert own.groupby("patient")["member"].nunique().eq(4).all()
    expected = own.groupby("patient")["probability"].mean()
    thresholds = {fold.fold: fold.threshold for fold in spec.folds}
    scored = score_out_of_fold(spec, Validation.of(predictions))
    score = scored["score"] + scored["fold"].map(thresholds)
    np.testing.assert_allclose(score.sort_index(), expected.sort_index(), atol=1e-12)


def test_the_table_is_a_member_of_the_studys_own_ensemble_and_its_fallbacks_alone() -> None:
    predictions = with_table(stored(THREE))
    specs = built(predictions)
    assert {name for name, spec in specs.items() if spec.has_table} == {"ensemble"}
    fallbacks = fit_fallbacks(specs["ensemble"], predictions)
    assert list(fallbacks) == ["without CTA", "without NCCT"]
    for spec in fallbacks.values():
        assert spec.contenders[-1] == TABLE
        assert len(spec.configurations) == 1


@pytest.mark.parametrize("selection", ["best_per_modality", "same_spec", "greedy"])
def test_an_informative_table_raises_the_nested_estimate(selection: Selection) -> None:
    predictions = with_table(stored(THREE[:1]), signal=3.0)
    ways = [EnsembleConfig(selection=selection, weighting="youden", table_member=m) for m in ("none", "ridge")]
    compared = compare_ensembles(records_of(predictions, THREE[:1]), predictions, ways)
    shown = compared.set_index(["table_member", "estimate"])
    assert shown.loc[("ridge", "nested"), "auc"] > shown.loc[("none", "nested"), "auc"] + 0.03


def test_greedy_takes_the_table_only_if_it_adds_to_the_networks() -> None:
    def chosen(signal: float) -> list[object]:
        predictions = with_table(stored(THREE), signal=signal)
        ranked = rank_configurations(records_of(predictions, THREE)).candidates
        return [*greedy(ranked, Validation.of(predictions, LATE), range(FOLDS), "mean")]

    assert TABLE in chosen(3.0)
    assert TABLE not in chosen(-1.0)
    # Alone it would be a baseline, so a network is there even if the table is right about everybody.
    assert set(chosen(50.0)) & set(THREE)


def test_a_table_that_is_no_better_than_chance_has_no_say() -> None:
    predictions = with_table(stored(THREE), signal=-50.0)
    settings = EnsembleConfig(table_member="ridge", chance_members="abstain")
    spec = built(predictions, settings)["ensemble"]
    assert all(member.abstains for member in spec.members if isinstance(member, TableMember))
    assert sum("table, ridge is no better than chance and abstains" in note for note in spec.notes) == FOLDS
    alone = fitted(THREE, predictions, EnsembleConfig(chance_members="abstain"))
    validation = Validation.of(predictions)
    pd.testing.assert_frame_equal(score_out_of_fold(spec, validation), score_out_of_fold(alone, validation))


def test_a_frozen_ensemble_reads_back_and_those_without_the_table_are_what_they_were() -> None:
    predictions = with_table(stored(THREE))
    spec = built(predictions)["ensemble"]
    assert EnsembleSpec.model_validate_json(spec.model_dump_json()) == spec
    assert [each.key for each in spec.folds[2].members][-1] == table_member_key(2)
    # Computed before there was such a member.
    before = "d38add9dc2fbca33350da3653e012e2833adf0712605fd0e8c9fed681ee07d9b"
    assert content_hash(fitted(THREE, stored(THREE), EnsembleConfig())) == before
    stacked = EnsembleConfig(weighting="stacked", member_scale="platt")
    before = "42de4ab6878e41c757c84988a9415b2b77cd0c2dd009fed62496564a0aa99e8d"
    assert content_hash(fitted(THREE, stored(THREE), stacked)) == before


def test_predictions_of_the_table_that_are_missing_are_named() -> None:
    with pytest.raises(RlvoError, match=table_member_key(0)):
        built(stored(THREE))
