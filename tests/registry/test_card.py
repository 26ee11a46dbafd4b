"""The model card says what the model is for, what it was made from and how good it is, and names no patient."""

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from rlvo.about import NOTICE
from rlvo.ensemble.spec import MemberSpec
from rlvo.errors import RlvoError
from rlvo.inference.description import read_description
from rlvo.inference.training_cohort import SYNTHETIC, CohortSummary, ContinuousSummary
from rlvo.mlflow_client import Tracking
from rlvo.registry.card import ADDED, BESIDE_TABLE, LIMIT, add_to_description, model_card, shorten

VALIDATION = pd.DataFrame(
    [
        ["optimistic", 0.91, 0.85, 0.96, 0.88, 0.9, 0.86, "all folds"],
        ["nested", 0.72, 0.64, 0.8, 0.69, 0.7, 0.68, "only folds 2, 3"],
    ],
    columns=["estimate", "auc", "low", "high", "balanced_accuracy", "sensitivity", "specificity", "basis"],
)
COHORT = CohortSummary(
    patients=24,
    prevalence=1 / 3,
    continuous={
        "age": ContinuousSummary(mean=70.123, sd=12.34),
        "tmax_gt4_ml": ContinuousSummary(mean=206.6, sd=119.4),
        "nihss": ContinuousSummary(mean=15.02, sd=7.18),
        "hir": ContinuousSummary(mean=0.431, sd=0.2),
    },
    shares={"sex": {"F": 0.5}, "smoking": {"1": 0.25}, "occlusion_site": {"TICA": 0.2, "M1": 0.5, "M2": 0.3}},
    missing={"age": 0.125} | dict.fromkeys(("tmax_gt4_ml", "nihss", "hir", "sex", "smoking", "occlusion_site"), 0.0),
)


def test_the_card_says_it_all_in_what_a_registry_holds(model_folder: Path) -> None:
    description = read_description(model_folder).model_copy(
        update={"cohort": COHORT, "provenance": {"commit": "0a1b2c", "torch": "9.9.9"}}
    )
    card = model_card(description, VALIDATION)
    assert "Intervals: DeLong, logit scale. Nested: only folds 2, 3." in card
    assert len(card) < LIMIT
    assert NOTICE in card
    assert "24 patients, 33% with refractory occlusion" in card
    assert (
        "- Age: 70.1 years (SD 12.3), missing in 12%\n- Tmax > 4 s: 207 mL (SD 119)\n- NIHSS: 15 (SD 7.2)\n"
        "- HIR: 0.431 (SD 0.2)\n- Sex: female 50%\n- Smoking: 25%\n- Occlusion site: TICA 20%, M1 50%, M2 30%\n" in card
    )
    assert not re.search(r"\de[+-]\d|_ml|occlusion_", card)
    assert "| nested | 0.72 (0.64–0.80) | 0.69 | 0.70 | 0.68 |" in card
    assert card.index("| nested |") < card.index("| optimistic |")
    assert "- commit: 0a1b2c\n- torch: 9.9.9\n" in card
    assert description.spec.split_hash[:12] in card
    for variant in description.variants[1:]:
        assert variant.name in card
    for note in description.spec.notes:
        assert note in card
    assert "PLANTED" not in card
    assert "/" not in card.replace("://", "").replace(" / ", "")


def test_the_card_says_if_images_alone_were_learned_beside_the_table(model_folder: Path) -> None:
    description = read_description(model_folder)
    assert BESIDE_TABLE not in model_card(description, VALIDATION)
    variant = description.variants[0]
    fold = variant.spec.folds[0]
    member = next(each for each in fold.members if isinstance(each, MemberSpec))
    training = member.configuration.training.model_copy(update={"beside_table": True})
    beside = member.model_copy(update={"configuration": member.configuration.model_copy(update={"training": training})})
    members = tuple(beside if each is member else each for each in fold.members)
    spec = variant.spec.model_copy(
        update={"folds": (fold.model_copy(update={"members": members}), *variant.spec.folds[1:])}
    )
    changed = variant.model_copy(update={"spec": spec})
    own = description.model_copy(update={"variants": (changed, *description.variants[1:])})
    assert f"- {BESIDE_TABLE}\n" in model_card(own, VALIDATION)


def test_the_first_screen_of_the_card_says_what_matters(model_folder: Path) -> None:
    """What it is, of whom, how good without optimism, and what it must not be used for, before any heading."""
    described = read_description(model_folder).model_copy(update={"cohort": COHORT})
    first = model_card(described, VALIDATION).split("\n## ")[0]
    assert NOTICE in first
    assert "24 patients, 33% with refractory occlusion" in first
    assert "AUC 0.72 (95 % interval 0.64–0.80), sensitivity 70%, specificity 68%, on development patients" in first
    assert "(nested validation; only folds 2, 3)" in first
    assert "0.91" not in first
    assert "Not for:** finding or excluding an occlusion; choosing or withholding a treatment" in first
    assert len(first) < 1200


def test_the_card_of_a_model_of_synthetic_patients_says_so_first(model_folder: Path) -> None:
    cohort = COHORT.model_copy(update={"synthetic": True})
    card = model_card(read_description(model_folder).model_copy(update={"cohort": cohort}), VALIDATION)
    assert card.splitlines()[2].startswith(f"**Not for patients: {SYNTHETIC}.**")
    assert "24 SYNTHETIC patients" in card


def test_results_are_added_and_the_oldest_dropped_for_new_ones(empty_database: Path, tmp_path: Path) -> None:
    tracking = Tracking(f"sqlite:///{shutil.copy(empty_database, tmp_path)}", tmp_path)
    client = tracking.client()
    client.create_registered_model("rlvo-ensemble")
    version = client.create_model_version("rlvo-ensemble", str(tmp_path), description="# The card\n").version
    for opening in range(1, 40):
        lines = [f"AUC 0.{opening}", "x" * 200]
        add_to_description(tracking, "rlvo-ensemble", version, f"hold-out, opening {opening}", lines)
    description = client.get_model_version("rlvo-ensemble", version).description
    assert description.startswith("# The card\n\n## Evaluated: hold-out, opening ")
    assert "opening 39\n- AUC 0.39\n" in description
    assert "opening 1\n" not in description
    assert LIMIT - 300 < len(description) <= LIMIT
    with pytest.raises(RlvoError, match="not in the registry"):
        add_to_description(tracking, "rlvo-ensemble", "7", "elsewhere", [])


@pytest.mark.parametrize("length", [LIMIT - 300, LIMIT, 3 * LIMIT])
def test_the_newest_results_are_whole_however_long_the_card(length: int, empty_database: Path, tmp_path: Path) -> None:
    tracking = Tracking(f"sqlite:///{shutil.copy(empty_database, tmp_path)}", tmp_path)
    client = tracking.client()
    client.create_registered_model("rlvo-ensemble")
    card = "".join(f"- line {number:4d} of the card\n" for number in range(length // 24))
    version = client.create_model_version("rlvo-ensemble", str(tmp_path), description=shorten(card)).version
    for opening in (1, 2):
        add_to_description(
            tracking, "rlvo-ensemble", version, f"opening {opening}", [*map(str, range(100, 200)), "end"]
        )
    description = client.get_model_version("rlvo-ensemble", version).description
    assert len(description) <= LIMIT
    assert description.endswith("- 199\n- end\n")
    kept, _, pointer = description.split(ADDED)[0].partition("\n\nThe rest of the card: `card.md`")
    assert pointer
    assert card.startswith(f"{kept}\n")
    assert shorten("# The card\n") == "# The card\n"
