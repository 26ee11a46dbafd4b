"""Which patients to show: a fixed rule, so that nobody picks the pictures that look best."""

from dataclasses import dataclass
from typing import Literal, get_args

import pandas as pd

Kind = Literal["true positive", "false positive", "false negative"]
RULE = (
    "Of the true positives, false positives and false negatives, the patient with the largest absolute score "
    "(the clearest decision) and the one with the median, the lower of two; ties go by patient id."
)


@dataclass(frozen=True)
class Example:
    """A patient to show, and why."""

    patient: str
    kind: Kind
    why: Literal["largest score", "median score"]


def choose_examples(label: pd.Series, decision: pd.Series, score: pd.Series) -> list[Example]:
    """Choose patients by RULE; a kind without patients is left out, and one with a single patient shows it once.

    Args:
        label, decision: 0 or 1, by patient id; a patient without a decision (NA) is passed over.
        score: the margin of the decision, by patient id.
    """
    answered = pd.DataFrame({"label": label, "decision": decision, "size": score.abs()}).dropna()
    truth: dict[Kind, tuple[int, int]] = {"true positive": (1, 1), "false positive": (0, 1), "false negative": (1, 0)}
    examples = []
    for kind in get_args(Kind):
        of_kind = answered[(answered["label"] == truth[kind][0]) & (answered["decision"] == truth[kind][1])]
        ordered = of_kind.sort_index().sort_values("size", ascending=False, kind="stable").index.astype(str)
        if len(ordered):
            examples.append(Example(ordered[0], kind, "largest score"))
            if (median := ordered[len(ordered) // 2]) != ordered[0]:
                examples.append(Example(median, kind, "median score"))
    return examples
