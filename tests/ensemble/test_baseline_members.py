"""Baselines as members: late fusion against hand computation, planted signal, and noise."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from support.stored_predictions import FOLDS, THREE, fitted, records_of, stored, with_baseline, with_table

from rlvo.config.base import content_hash
from rlvo.config.sections import EnsembleConfig
from rlvo.ensemble.build import fit_fallbacks, score_out_of_fold, study_ensembles
from rlvo.ensemble.comparison import compare_ensembles, every_way
from rlvo.ensemble.fitting import Validation
from rlvo.ensemble.selection import Selection, greedy, rank_configurations
from rlvo.ensemble.spec import IMAGE, IMAGE_TABLE, TABLE, Baseline, BaselineMember, EnsembleSpec, baseline_key
from rlvo.errors import RlvoError

SETTINGS: dict[Baseline, dict[str, str]] = {
    TABLE: {"table_member": "ridge"},
    IMAGE: {"linear_image": "alone"},
    IMAGE_TABLE: {"linear_image": "with_table"},
}
"""What a study file says to have each baseline as a member."""
each_baseline = pytest.mark.parametrize("baseline", list(SETTINGS))


def late(baseline: Baseline, **settings: str) -> EnsembleConfig:
    return EnsembleConfig.model_validate(SETTINGS[baseline] | {"weighting": "mean"} | settings)


def built(predictions: pd.DataFrame, settings: EnsembleConfig) -> dict[str, EnsembleSpec]:
    return study_ensembles(records_of(predictions, THREE), predictions, settings)


@each_baseline
def test_the_mean_counts_a_baseline_like_a_network(baseline: Baseline) -> None:
    predictions = with_baseline(stored(THREE), baseline)
    spec = built(predictions, late(baseline))["ensemble"]
    assert spec.contenders == (*THREE, baseline)
    assert spec.configurations == tuple(THREE)
    own = predictions[predictions["split"] == "validation"]
    assert own.groupby("patient")["member"].nunique().eq(4).all()
    expected = own.groupby("patient")["probability"].mean()
    thresholds = {fold.fold: fold.threshold for fold in spec.folds}
    scored = score_out_of_fold(spec, Validation.of(predictions))
    score = scored["score"] + scored["fold"].map(thresholds)
    np.testing.assert_allclose(score.sort_index(), expected.sort_index(), atol=1e-12)


def test_both_kinds_may_be_members_of_one_ensemble() -> None:
    predictions = with_baseline(with_table(stored(THREE)), IMAGE, seed=4)
    spec = built(predictions, late(TABLE, linear_image="alone"))["ensemble"]
    assert spec.contenders == (*THREE, TABLE, IMAGE)
    assert (spec.has_table, spec.linear_image) == (True, IMAGE)
    assert [member.key for member in spec.folds[1].members][-2:] == ["table-ridge-f1", "linear-image-f1"]


def test_the_table_is_a_member_of_the_studys_own_ensemble_and_its_fallbacks_alone() -> None:
    predictions = with_table(stored(THREE))
    settings = late(TABLE)
    specs = built(predictions, settings)
    assert {name for name, spec in specs.items() if spec.has_table} == {"ensemble"}
    fallbacks = fit_fallbacks(specs["ensemble"], predictions, settings)
    assert list(fallbacks) == ["without CTA", "without NCCT"]
    for spec in fallbacks.values():
        assert spec.contenders[-1] == TABLE
        assert len(spec.configurations) == 1


def test_the_linear_model_of_the_volumes_says_nothing_of_a_patient_who_lacks_one() -> None:
    predictions = with_baseline(with_table(stored(THREE)), IMAGE_TABLE, seed=4)
    settings = late(TABLE, linear_image="with_table")
    specs = built(predictions, settings)
    assert {name for name, spec in specs.items() if spec.linear_image} == {"ensemble"}
    fallbacks = fit_fallbacks(specs["ensemble"], predictions, settings)
    assert {name: spec.contenders for name, spec in fallbacks.items()} == {
        "without CTA": (THREE[0], TABLE),
        "without NCCT": (THREE[1], TABLE),
    }


def test_networks_of_one_volume_answer_without_the_linear_model_if_the_other_is_missing() -> None:
    predictions = with_baseline(stored(THREE[:1]), IMAGE)
    [spec] = [study_ensembles(records_of(predictions, THREE[:1]), predictions, late(IMAGE))["ensemble"]]
    assert spec.contenders == (THREE[0], IMAGE)
    fallbacks = fit_fallbacks(spec, predictions, late(IMAGE))
    assert {name: own.contenders for name, own in fallbacks.items()} == {"without CTA": (THREE[0],)}


@pytest.mark.parametrize("selection", ["best_per_modality", "same_spec", "greedy"])
@each_baseline
def test_an_informative_baseline_raises_the_nested_estimate(baseline: Baseline, selection: Selection) -> None:
    predictions = with_baseline(stored(THREE[:1]), baseline, signal=3.0)
    settings = EnsembleConfig(selection=selection, weighting="youden")
    ways = [settings, settings.model_copy(update=SETTINGS[baseline])]
    compared = compare_ensembles(records_of(predictions, THREE[:1]), predictions, ways)
    without, with_it = compared.loc[compared["estimate"] == "nested", "auc"]
    assert with_it > without + 0.03


@each_baseline
def test_greedy_takes_a_baseline_only_if_it_adds_to_the_networks(baseline: Baseline) -> None:
    def chosen(signal: float) -> list[object]:
        predictions = with_baseline(stored(THREE), baseline, signal=signal)
        ranked = rank_configurations(records_of(predictions, THREE)).candidates
        return [*greedy(ranked, Validation.of(predictions, late(baseline)), range(FOLDS), "mean")]

    assert baseline in chosen(3.0)
    assert baseline not in chosen(-1.0)
    # Alone it would be a baseline, so a network is there even if it is right about everybody.
    assert set(chosen(50.0)) & set(THREE)


@each_baseline
def test_a_baseline_that_is_no_better_than_chance_has_no_say(baseline: Baseline) -> None:
    predictions = with_baseline(stored(THREE), baseline, signal=-50.0)
    settings = late(baseline, weighting="class_rates", chance_members="abstain")
    spec = built(predictions, settings)["ensemble"]
    own = [member for member in spec.members if isinstance(member, BaselineMember)]
    assert all(member.abstains for member in own)
    assert sum(f"{own[0].label} is no better than chance and abstains" in note for note in spec.notes) == FOLDS
    alone = fitted(THREE, predictions, EnsembleConfig(chance_members="abstain"))
    validation = Validation.of(predictions)
    pd.testing.assert_frame_equal(score_out_of_fold(spec, validation), score_out_of_fold(alone, validation))


def rounded_hash(spec: EnsembleSpec) -> str:
    """The hash of what it holds to six digits: a fit ends up to 1e-8 elsewhere on another processor."""

    def rounded(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: rounded(each) for name, each in value.items()}
        if isinstance(value, list):
            return [rounded(each) for each in value]
        return float(f"{value:.6g}") if isinstance(value, float) else value

    return content_hash(rounded(spec.model_dump(mode="json")))


def test_a_frozen_ensemble_reads_back_and_those_without_the_table_are_what_they_were() -> None:
    predictions = with_table(stored(THREE))
    spec = built(predictions, late(TABLE))["ensemble"]
    assert EnsembleSpec.model_validate_json(spec.model_dump_json()) == spec
    assert [each.key for each in spec.folds[2].members][-1] == baseline_key(TABLE, 2)
    # Of the content from before there was such a member, whose exact hash other processors have still.
    before = "e1ba050eb5494f2dc4c2b589834282e77a25bd83c54f8e499018d98a8384819c"
    assert rounded_hash(fitted(THREE, stored(THREE), EnsembleConfig())) == before
    stacked = EnsembleConfig(weighting="stacked", member_scale="platt")
    before = "e2d2db1ac778cb3aeaa34c24820a92cf159d1ec17963bc9e56a40deea9eb0db7"
    assert rounded_hash(fitted(THREE, stored(THREE), stacked)) == before


def test_an_ensemble_with_the_table_is_what_it_was_before_there_were_linear_models_of_the_volumes() -> None:
    spec = built(with_table(stored(THREE)), late(TABLE))["ensemble"]
    assert content_hash(spec) == "fc972512c1fbe8c357294cd9be59a6593a63536188ee49c1c7a83dbba7aec327"
    linear = built(with_baseline(stored(THREE), IMAGE_TABLE), late(IMAGE_TABLE))["ensemble"]
    assert EnsembleSpec.model_validate_json(linear.model_dump_json()) == linear


@each_baseline
def test_predictions_of_a_baseline_that_are_missing_are_named(baseline: Baseline) -> None:
    with pytest.raises(RlvoError, match=f"{baseline_key(baseline, 0)}.*Build the ensemble again"):
        built(stored(THREE), late(baseline))


def test_the_linear_models_add_two_ways_to_those_that_are_compared() -> None:
    for own in ("none", "alone", "with_table"):
        settings = EnsembleConfig(selection="greedy", weighting="stacked", linear_image=own)  # type: ignore[arg-type]
        ways = every_way(settings)
        assert len(ways) == len({way.model_dump_json() for way in ways}) == 3 * 5 * 2 * 2 + 2
        assert settings in ways
        assert {way.linear_image for way in ways} == {"none", "alone", "with_table"}
        assert all(way.linear_image == own for way in ways[:-2])
        assert {way.linear_image for way in ways[-2:]} == {"none", "alone", "with_table"} - {own}
