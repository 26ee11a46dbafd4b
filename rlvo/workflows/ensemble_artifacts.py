"""What MLflow shows at the run of a study's ensemble beside figures: the pictures of the report, and the report."""

from pathlib import Path

from rlvo.config.base import content_hash
from rlvo.ensemble.build import STUDY_ENSEMBLE
from rlvo.errors import MachineError, get_logger
from rlvo.report.style import svg
from rlvo.study.folder import read_declared
from rlvo.study.trials import EndedTrials
from rlvo.tracking.after_search import attach_text
from rlvo.workflows.evidence import gather_evidence
from rlvo.workflows.holdout import Evaluation
from rlvo.workflows.report_sections import calibration_sections, curves_section
from rlvo.workflows.study import ReadStudy, tracking_of

logger = get_logger(__name__)
REPORT = "report.html"
"""The name of a report's page among the artifacts."""


def ensemble_figures(study: ReadStudy, trials: EndedTrials, evaluation: Evaluation | None = None) -> dict[str, str]:
    """SVGs, and a text of their captions, by their path among the run's artifacts.

    Args:
        evaluation: what an opening of the hold-out showed of the declared ensembles; None: the pictures are of
            out-of-fold answers.

    Raises:
        RlvoError: as `gather_evidence`.
    """
    evidence = gather_evidence(study, trials, evaluation)
    sections = [curves_section(evidence, study.config.ensemble.tie), *calibration_sections(evidence)]
    drawn = {each.name: each for section in sections for each in section.exhibits if each.figure is not None}
    folder = "figures/nested" if evaluation is None else "figures/hold-out"
    figures = {f"{folder}/{name}.svg": svg(each.figure) for name, each in drawn.items() if each.figure is not None}
    captions = [f"- **{name}.svg** ({each.standing}): {each.title}. {each.caption}\n" for name, each in drawn.items()]
    return figures | {f"{folder}/captions.md": "".join(captions)}


def attach_report(study: ReadStudy, page: Path) -> bool:
    """Put a report's page, in the place of an earlier one, at the run of the ensemble that was built last.

    Returns:
        Whether MLflow has it: there may be no such run. If MLflow does not answer, that is logged.
    """
    if not study.folder.declared.is_file():
        return False
    key, tracking = content_hash(read_declared(study.folder)[STUDY_ENSEMBLE]), tracking_of(study.work, study.config)
    try:
        text = page.read_text(encoding="utf-8")
        return attach_text(study.config, study.folder, tracking, key=key, name=REPORT, text=text) is not None
    except MachineError as error:
        logger.warning("MLflow does not get the report: %s", error)
        return False
