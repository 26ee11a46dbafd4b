"""The model card: what a registered model is for, what it was made from, how good it is, and where it may fail.

After Mitchell et al. 2019, "Model Cards for Model Reporting". It names no patient.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from rlvo.cohort.labels import LEVELS, variable_name
from rlvo.cohort.variables import known_variables
from rlvo.config.predictors import OwnPredictor
from rlvo.ensemble.spec import EnsembleSpec
from rlvo.evaluation.performance import INTERVAL_METHODS
from rlvo.inference.description import ModelDescription
from rlvo.inference.training_cohort import SYNTHETIC, CohortSummary
from rlvo.mlflow_client import Tracking
from rlvo.text import escape_controls

LIMIT = 5000
"""How many characters of a version's description a registry's database keeps."""
CARD = "card.md"
"""The whole card, in the model's folder."""
REST = f"\n\nThe rest of the card: `{CARD}` among the model's files.\n"
ADDED = "\n## Evaluated: "
"""Heading of a section that is added to a description after registration."""

BESIDE_TABLE = "networks of images alone learned beside the log-odds of the table, which their answers leave out"
TEMPLATE = Path(__file__).with_name("model_card.md")


def model_card(description: ModelDescription, validation: pd.DataFrame) -> str:
    """The card in Markdown; `validation`: rows `nested` and `optimistic` of `ensemble.comparison.compare_ensembles`."""
    template = TEMPLATE.read_text().rstrip("\n")
    is_synthetic = description.cohort is not None and description.cohort.synthetic
    return template.format(
        notice=f"**Not for patients: {SYNTHETIC}.** {description.notice}" if is_synthetic else description.notice,
        patients=_patients(description.cohort),
        how_good=_how_good(validation),
        cohort=_characteristics(description.cohort),
        made=_made(description),
        results=_results(validation),
        missing=_missing(description),
        notes="".join(f"- {note}\n" for note in description.spec.notes),
    )


def add_to_description(tracking: Tracking, name: str, version: str, title: str, lines: Sequence[str]) -> None:
    """Add a section of results to a version's description, for an opening of the hold-out or another hospital's cohort.

    If a database has no room for it, the oldest added sections are dropped, then the card is cut (`shorten`).

    Args:
        title: what was evaluated, and for a hold-out which opening it was.
        lines: one list item each; they name no patient.

    Raises:
        RlvoError: there is no such version.
        MachineError: the registry does not answer.
    """
    with tracking.registry(f"{name}/{version}") as client:
        card, *added = (client.get_model_version(name, version).description or "").split(ADDED)
        added.append("\n- ".join(map(escape_controls, (title, *lines))) + "\n")
        while len(added) > 1 and len(ADDED.join([card, *added])) > LIMIT:
            del added[0]
        results = ADDED.join(["", *added])
        client.update_model_version(name, version, (shorten(card, LIMIT - len(results)) + results)[:LIMIT])


def shorten(card: str, limit: int = LIMIT) -> str:
    """A card that fits into a version's description: cut after a line, it says where the rest is."""
    if len(card) <= limit:
        return card
    return card[: card.rfind("\n", 0, max(limit - len(REST), 0)) + 1].rstrip() + REST


def _patients(summary: CohortSummary | None) -> str:
    if summary is None:
        return "patients who are not described."
    patients = f"{summary.patients} {'SYNTHETIC ' if summary.synthetic else ''}patients"
    return f"{patients}, {summary.prevalence:.0%} with refractory occlusion."


def _how_good(validation: pd.DataFrame) -> str:
    """The honest estimate of the validation, in a sentence."""
    (row,) = validation[validation["estimate"] == "nested"].to_dict("records")
    rates = f"sensitivity {row['sensitivity']:.0%}, specificity {row['specificity']:.0%}"
    auc = f"AUC {row['auc']:.2f} (95 % interval {row['low']:.2f}–{row['high']:.2f})"
    whose = f"on development patients (nested validation; {row['basis']})"
    return f"{auc}, {rates}, {whose}. Results on other patients stand at the end."


def _characteristics(summary: CohortSummary | None) -> str:
    """One line per predictor, in a clinician's terms: mean and SD with the unit, or shares."""
    if summary is None:
        return "Not described."
    described = {name: each.in_words(name, summary.variables) for name, each in summary.continuous.items()} | {
        name: ", ".join(f"{LEVELS.get(level, level)} {share:.0%}".removeprefix("1 ") for level, share in levels.items())
        for name, levels in summary.shares.items()
    }
    lines = [
        f"- {variable_name(name)}: {described[name]}{f', missing in {share:.0%}' if share else ''}"
        for name, share in summary.missing.items()
        if described.get(name)
    ]
    return "\n".join([*lines, *map(_declared, summary.own)])


def _declared(own: OwnPredictor) -> str:
    """What a column holds that rlvo does not know: its name, kind, and what a cell may hold."""
    allowed = known_variables([own])[own.name].allowed
    return f"- The column `{own.name}` is the study's own: {own.kind}, {allowed}"


def _made(description: ModelDescription) -> str:
    spec, grid = description.spec, description.target.grid
    labels = Counter(member.label for member in spec.folds[0].members)
    members = "; ".join(f"{count} × {label}" if count > 1 else label for label, count in labels.items())
    shape = "×".join(map(str, grid.shape))
    spacing = "×".join(f"{step:.2f}" for step in grid.spacing)
    scale = "brought to one scale (Platt), " if spec.member_scale == "platt" else ""
    calibration = "none" if spec.calibration is None else spec.calibration.method
    return "\n".join(
        [
            f"- {len(spec.folds)} folds, {_count(spec)}; per fold: {members}",
            f"- {scale}combined by {spec.weighting.replace('_', ' ')}, Youden's threshold per fold, ties {spec.tie}; "
            f"calibration: {calibration}",
            f"- volumes on {shape} voxels of {spacing} mm",
            *(f"- image networks started from pretrained weights, SHA-256 {each}" for each in _pretrained(spec)),
            *([f"- {BESIDE_TABLE}"] if any(each.training.beside_table for each in spec.configurations) else []),
            *(f"- {name.replace('_', ' ')}: {value}" for name, value in description.provenance.items()),
            f"- split {spec.split_hash[:12]}, data {spec.data_hash[:12]}, rlvo {description.rlvo_version}",
        ]
    )


def _pretrained(spec: EnsembleSpec) -> list[str]:
    """The SHA-256 of the files that its networks started from."""
    return sorted({sha for each in spec.configurations if (sha := each.model.pretrained.sha256) is not None})


def _count(spec: EnsembleSpec) -> str:
    """How many members there are, in words."""
    linear = len(spec.members) - len(spec.networks)
    return f"{len(spec.networks)} networks" + (f" and {linear} linear models" if linear else "")


def _results(validation: pd.DataFrame) -> str:
    rows = ["| | AUC (95 % interval) | balanced accuracy | sensitivity | specificity |", "|---|---|---|---|---|"]
    for row in validation.sort_values("estimate").to_dict("records"):
        decisions = " | ".join(f"{row[name]:.2f}" for name in ("balanced_accuracy", "sensitivity", "specificity"))
        rows.append(f"| {row['estimate']} | {row['auc']:.2f} ({row['low']:.2f}–{row['high']:.2f}) | {decisions} |")
    (basis,) = validation.loc[validation["estimate"] == "nested", "basis"]
    return "\n".join([*rows, "", f"Intervals: {INTERVAL_METHODS['auc']}. Nested: {basis}."])


def _missing(description: ModelDescription) -> str:
    others = [
        f"- *{variant.name}* ({_count(variant.spec)}, {len(variant.predictors)} predictors, its own "
        "thresholds) answers if only inputs it does not use are missing."
        for variant in description.variants[1:]
    ]
    first = "- A value that is missing or not allowed is imputed as in training and named in `warnings`."
    return "\n".join([first, *others, "- If nothing can answer, there is no answer, and `warnings` says why."])
