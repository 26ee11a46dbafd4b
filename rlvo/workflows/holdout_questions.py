"""What a hold-out is opened for: is the ensemble better than clinical variables, do both help, does it pay?"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from rlvo.config.model import Configuration
from rlvo.ensemble.build import STUDY_ENSEMBLE
from rlvo.ensemble.selection import MODALITIES
from rlvo.ensemble.spec import EnsembleSpec
from rlvo.errors import RlvoError
from rlvo.evaluation.answers import AnswerComparison, compare_answers
from rlvo.evaluation.calibration import Calibration, decision_curve, measure_calibration
from rlvo.report.calibration import Reliability, decision_curve_plot, reliability_plot
from rlvo.report.style import write_picture
from rlvo.study.folder import StudyFolder

CLINICAL = "all clinical"
"""The baseline that the ensemble is tested against, and drawn beside."""


@dataclass(frozen=True, eq=False)
class PairedTest:
    """Two models on the same patients, `a` the one that should be better."""

    a: str
    b: str
    found: AnswerComparison


@dataclass(frozen=True, eq=False)
class Usefulness:
    """Do a model's probabilities mean what they say, and does it pay to alert by them?"""

    calibration: Calibration
    benefit: pd.DataFrame
    """As from `rlvo.evaluation.calibration.decision_curve`."""


def paired_tests(
    specs: Mapping[str, EnsembleSpec], answers: Mapping[str, pd.DataFrame], label: pd.Series
) -> list[PairedTest]:
    """The study's ensemble against the clinical baseline, then every fusion against images alone.

    The latter are ensembles of one architecture that differ in nothing but the fusion. A pair is left out if it has
    too few answers of a class in common.

    Args:
        specs: the declared ensembles by name.
        answers: of ensembles and baselines by name: index patient id, columns `rlvo`, `score`.
        label: 0 or 1 by patient id.
    """
    pairs = [(STUDY_ENSEMBLE, CLINICAL)] if CLINICAL in answers else []
    by_design = {
        name: ({_without_fusion(c) for c in spec.configurations}, {c.model.fusion for c in spec.configurations})
        for name, spec in specs.items()
        if name not in (STUDY_ENSEMBLE, *MODALITIES)
    }
    for images, (design, fusions) in by_design.items():
        if fusions == {"none"}:
            pairs += [(name, images) for name, other in by_design.items() if other[0] == design and name != images]
    found = []
    for a, b in pairs:
        try:
            found.append(PairedTest(a, b, compare_answers(answers[a], answers[b], label)))
        except RlvoError:
            continue
    return found


def usefulness(answers: Mapping[str, pd.DataFrame], label: pd.Series) -> dict[str, Usefulness]:
    """Calibration and net benefit of the study's ensemble and of the clinical baseline, as far as they have answers.

    Arguments are those of `paired_tests`, with a column `probability`.
    """
    found = {}
    for name in (STUDY_ENSEMBLE, CLINICAL):
        if name in answers and len(p := answers[name]["probability"].dropna()):
            y = label.loc[p.index].to_numpy(int)
            found[name] = Usefulness(measure_calibration(y, p.to_numpy(float)), decision_curve(y, p.to_numpy(float)))
    return found


def draw_usefulness(
    folder: StudyFolder, found: Mapping[str, Usefulness], answers: Mapping[str, pd.DataFrame], label: pd.Series
) -> list[Path]:
    """Draw reliability and decision curves as SVG and PNG into the study's folder; return their paths."""
    if not found:
        return []
    curves = {}
    for name, each in found.items():
        p = answers[name]["probability"].dropna()
        curves[name] = Reliability(label.loc[p.index].to_numpy(int), p.to_numpy(float), each.calibration)
    about = "Hold-out"
    benefit = decision_curve_plot({name: each.benefit for name, each in found.items()}, about=about)
    return [
        *write_picture(reliability_plot(curves, about=about), folder.holdout_calibration),
        *write_picture(benefit, folder.holdout_benefit),
    ]


def _without_fusion(configuration: Configuration) -> tuple[str, bool, str]:
    model = configuration.model
    return model.backbone, model.prior, model.modality
