"""Examples of saliency for a report: pictures of patients who were chosen by a rule, under numbers instead of names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from rlvo.config.grid import Grid
from rlvo.explain.examples import Example
from rlvo.explain.faithfulness import Faithfulness
from rlvo.explain.gradcam import MeanMaps, Which
from rlvo.report.exhibit import Exhibit
from rlvo.report.saliency import saliency_figure

FAILED = "fails its checks"


@dataclass(frozen=True, eq=False)
class ShownExample:
    """A validation patient, and what the networks that were not trained on it see there."""

    example: Example
    fold: int
    label: int
    vote: int
    score: float
    """The fold's margin."""
    probabilities: Mapping[str, float]
    """By network."""
    maps: MeanMaps
    checks: Mapping[Which, Faithfulness]

    @property
    def kind(self) -> str:
        """E.g. "false negative, median score"."""
        return f"{self.example.kind}, {self.example.why}"

    def verdict(self, which: Which) -> str:
        """Whether the map can be trusted, in words; "" if there is no such map of its own."""
        if which not in self.checks:
            return ""
        if self.maps.is_silent(which):
            return "all zero"
        return FAILED if self.checks[which].failures else "passes its checks"

    def exhibit(self, number: int, volumes: Mapping[str, np.ndarray], grid: Grid) -> Exhibit:
        """The picture, and its figures as a table.

        Args:
            number: of the example, which stands for the patient's name.
            volumes: the patient's prepared volumes on the grid.
        """
        title = f"Example {number}: {self.kind}"
        figures = {"label": self.label, "decision": self.vote, "score": self.score, "networks": self.maps.networks}
        figures |= {f"probability: {name}": value for name, value in self.probabilities.items()}
        figures |= {f"{which}/all_zero": count for which, count in self.maps.silent.items()}
        for check in self.checks.values():
            figures |= check.figures
        asked = ", ".join(f"{name} {value:.2f}" for name, value in self.probabilities.items())
        answer = f"{'yes' if self.vote else 'no'}, with a score of {self.score:+.3f} ({asked})".replace("-", "−")
        failed = [which for which in self.checks if self.verdict(which) == FAILED]
        draw = partial(saliency_figure, volumes, self.maps, grid, title=title, checks=self.checks)
        return Exhibit(
            f"saliency-{number}",
            f"{title} ({' and '.join(failed)} the fusion: {FAILED})" if failed else title,
            pd.DataFrame({"figure": [*figures], "value": [float(value) for value in figures.values()]}),
            f"rLVO: {'yes' if self.label else 'no'}. The networks of fold {self.fold}, which were not trained on this "
            f"patient, say {answer}.",
            "optimistic",
            figure=draw(),
            small=draw(is_narrow=True),
        )


def examples_exhibit(examples: Sequence[ShownExample]) -> Exhibit:
    """The examples in a table, in the order of their numbers."""
    rows = [
        {"example": number, "kind": shown.example.kind, "chosen_by": shown.example.why, "label": shown.label}
        | {"decision": shown.vote, "score": shown.score, "networks": shown.maps.networks}
        | {"map_before": shown.verdict("before"), "map_after": shown.verdict("after")}
        for number, shown in enumerate(examples, 1)
    ]
    table = pd.DataFrame(rows)
    shown = pd.DataFrame(
        {
            "example": table["example"].map(str),
            "kind": table["kind"],
            "chosen by": table["chosen_by"],
            "score": table["score"].map("{:+.3f}".format).str.replace("-", "−"),
            "networks": table["networks"].map(str),
            "map before the fusion": table["map_before"],
            "map after it": table["map_after"],
        }
    )
    caption = "Score: the combined score of the fold's networks minus their threshold, which was fitted to the fold."
    return Exhibit("saliency-examples", "The examples", table, caption, "optimistic", shown)
