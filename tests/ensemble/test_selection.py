"""Greedy selection against every pair, and what a study searched and finished."""

from itertools import combinations_with_replacement, product

import numpy as np
import pandas as pd
import pytest
from support.stored_predictions import FOLDS, MODALITIES, THREE, configuration, fitted, record, records_of, stored

from rlvo.config.loading import parse_study
from rlvo.config.model import Configuration
from rlvo.config.sections import EnsembleConfig
from rlvo.ensemble.build import STUDY_ENSEMBLE, study_ensembles, validation_metrics
from rlvo.ensemble.fitting import Validation
from rlvo.ensemble.selection import greedy, rank_configurations, searched_modalities, select_configurations
from rlvo.ensemble.spec import apply_ensemble
from rlvo.ensemble.weighting import Weighting
from rlvo.errors import RlvoError

SIX = [configuration(modality, fusion) for modality in MODALITIES for fusion in ("none", "daft")]


def mean_auc(chosen: list[Configuration], predictions: pd.DataFrame, weighting: Weighting) -> float:
    """Of the fitted ensemble, by the metrics that everything else is reported with."""
    spec = fitted(chosen, predictions, EnsembleConfig(weighting=weighting))
    return float(validation_metrics(spec, predictions)["auc"].mean())


def chosen_by(predictions: pd.DataFrame, weighting: Weighting = "class_rates") -> list[Configuration]:
    ranked = rank_configurations(records_of(predictions, SIX)).candidates
    return greedy(ranked, Validation.of(predictions), range(FOLDS), weighting)


@pytest.mark.parametrize(("narrow", "tiny", "chosen"), [(0.785, 0.75, 1), (0.78, 0.75, 0), (0.785, 0.79, 2)])
def test_the_simplest_within_one_standard_error_is_chosen_if_asked(narrow: float, tiny: float, chosen: int) -> None:
    """Folds of .80 ± .03: SD .0346, standard error .0173."""
    widths = ((64, 128, 256, 512), (32, 64, 128, 256), (4, 8, 8, 16))
    resnets = [
        Configuration.model_validate(
            {
                "model": {"backbone": "resnet18", "modality": "CTA", "resnet": {"widths": each}},
                "training": {"epochs": n},
            }
        )
        for n, each in enumerate(widths, start=1)
    ]
    means, spread = (0.8, narrow, tiny), (-0.03, 0.03, -0.03, 0.03)
    records = [
        record(each, fold, mean + off)
        for each, mean in zip(resnets, means, strict=True)
        for fold, off in enumerate(spread)
    ]
    ranked, predictions = rank_configurations(records).candidates, stored(resnets)
    assert ranked[0].standard_error == pytest.approx(0.03464 / 2, abs=1e-5)
    for choice, expected in (("best", resnets[0]), ("one_standard_error", resnets[chosen])):
        validation = Validation.of(predictions, EnsembleConfig.model_validate({"choice": choice}))
        taken = select_configurations("best_per_modality", ranked, validation, range(FOLDS), "class_rates")
        assert taken == [expected]


def test_repeats_are_compared_by_their_mean_and_taken_together() -> None:
    """The best single network is a lucky repeat; its configuration is not the best."""

    def repeated(fusion: str) -> list[Configuration]:
        model = {"backbone": "resnet18", "modality": "CTA", "fusion": fusion}
        return [Configuration.model_validate({"model": model, "training": {"repeat": n}}) for n in range(3)]

    lucky, steady = repeated("daft"), repeated("none")
    means = dict(zip((*lucky, *steady), (0.9, 0.6, 0.6, 0.75, 0.7, 0.8), strict=True))
    records = [record(each, fold, mean) for each, mean in means.items() for fold in range(FOLDS)]
    ranked = rank_configurations(records).candidates
    assert ranked[0].configuration == lucky[0]
    predictions = stored([*lucky, *steady])
    built = study_ensembles(records, predictions, EnsembleConfig())
    assert list(built[STUDY_ENSEMBLE].configurations) == list(built["resnet18 none"].configurations) == steady
    assert list(built["resnet18 daft"].configurations) == lucky
    said = {
        f"{each.key}-f{fold}": np.array([0.1 * n, 0.2]) for n, each in enumerate(steady, 1) for fold in range(FOLDS)
    }
    assert apply_ensemble(built[STUDY_ENSEMBLE], said).probability["CTA"] == pytest.approx([0.2, 0.2])


@pytest.mark.parametrize("weighting", ["class_rates", "balanced_accuracy", "mean"])
def test_greedy_is_no_worse_than_one_or_the_best_pair_that_starts_with_the_best(weighting: Weighting) -> None:
    predictions = stored(SIX, seed=3)
    reached = mean_auc(chosen_by(predictions, weighting), predictions, weighting)
    best = max(SIX, key=lambda c: mean_auc([c], predictions, weighting))
    for other in SIX:
        assert reached >= mean_auc([best, other], predictions, weighting) - 1e-9
    assert reached > mean_auc([best], predictions, weighting)


def test_greedy_takes_one_that_is_right_alone_and_the_order_of_records_and_rows_decides_nothing() -> None:
    predictions = stored(SIX, seed=1)
    assert chosen_by(predictions.sample(frac=1, random_state=0)) == chosen_by(predictions)
    ranked = rank_configurations(records_of(predictions, SIX)[::-1]).candidates
    assert greedy(ranked, Validation.of(predictions), range(FOLDS), "class_rates") == chosen_by(predictions)
    own = predictions["member"].str.startswith(SIX[3].key)
    predictions.loc[own, "probability"] = 0.2 + 0.6 * predictions.loc[own, "label"]
    assert chosen_by(predictions) == [SIX[3]]


def test_greedy_can_take_one_twice() -> None:
    """Two members whose sum is right about all four patients only where the better one counts twice."""
    pair = SIX[:2]
    probability = {pair[0]: [0.4, 0.7, 0.5, 0.9], pair[1]: [0.3, 0.4, 0.9, 0.2]}
    label = [0, 0, 1, 1]
    predictions = pd.DataFrame(
        [
            {"patient": f"p{fold}-{i}", "member": f"{c.key}-f{fold}", "fold": fold, "split": "validation",
             "probability": p, "label": label[i]}
            for c, fold in product(pair, range(FOLDS)) for i, p in enumerate(probability[c])
        ]
    )  # fmt: skip
    first, second = (np.array(probability[c]) for c in pair)

    def is_perfect(score: np.ndarray) -> bool:
        return score[2:].min() > score[:2].max()

    sizes = [n for n in (1, 2, 3) for c in combinations_with_replacement((first, second), n) if is_perfect(sum(c) / n)]
    assert sizes == [3], "the example is not one"
    ranked = rank_configurations(records_of(predictions, pair)).candidates
    chosen = greedy(ranked, Validation.of(predictions), range(FOLDS), "mean")
    assert len(chosen) == 3
    assert set(chosen) == set(pair)


def test_the_searched_modalities_are_the_spaces_or_the_models() -> None:
    for study, expected in (
        ({"space": {"enumerate": {"model.modality": ["CTA", "NCCT"]}}}, ("NCCT", "CTA")),
        ({"space": {"sample": {"model.modality": {"choices": ["BOTH", "CTA"]}}}}, ("CTA", "BOTH")),
        ({"model": {"modality": "CTA"}}, ("CTA",)),
    ):
        assert searched_modalities(parse_study({"name": "s", **study})) == expected


def test_ranking_names_searched_modalities_that_have_not_finished() -> None:
    ranking = rank_configurations(records_of(stored(THREE), THREE[:2]), modalities=MODALITIES)
    assert ranking.missing == ("no BOTH configuration has finished",)
    assert [c.auc for c in ranking.candidates] == sorted((c.auc for c in ranking.candidates), reverse=True)


def test_a_configuration_without_a_usable_fold_is_missing_and_without_any_there_is_nothing_to_rank() -> None:
    broken = [record(THREE[1], fold, np.nan if fold == 2 else 0.9) for fold in range(FOLDS)]
    ranking = rank_configurations([*records_of(stored(THREE), THREE[:1]), *broken])
    assert [candidate.configuration for candidate in ranking.candidates] == THREE[:1]
    assert ranking.missing[1:] == (f"{THREE[1].label} ({THREE[1].key}) has no usable fold 2",)
    with pytest.raises(RlvoError, match="finished all its folds"):
        rank_configurations(broken)
