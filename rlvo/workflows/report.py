"""The report on a study: one page, and every table and figure of it as files. The hold-out is never opened for it."""

import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlvo.ensemble.build import STUDY_ENSEMBLE
from rlvo.ensemble.selection import rank_configurations
from rlvo.errors import RlvoError
from rlvo.files import atomic_write
from rlvo.progress import ShowProgress, no_progress
from rlvo.report.console import format_interval
from rlvo.report.exhibit import Section, write_exhibits
from rlvo.report.guidelines import guidelines_section
from rlvo.report.model_tables import METRICS, models_exhibit
from rlvo.report.study_page import TRUST, TRUST_TITLE, study_page
from rlvo.study.membership import patient_marks
from rlvo.study.openings import Openings
from rlvo.study.state import StudyState
from rlvo.study.status import read_state
from rlvo.study.trials import EndedTrials
from rlvo.synthetic.cohort import has_synthetic
from rlvo.workflows.ablation_section import ablation_sections
from rlvo.workflows.evidence import Evidence, gather_evidence
from rlvo.workflows.holdout import kept_evaluation
from rlvo.workflows.report_explanations import kept_explanations
from rlvo.workflows.report_sections import (
    biomarker_sections,
    calibration_sections,
    clinical_section,
    cohort_section,
    curves_section,
    models_section,
    provenance_section,
    search_section,
    specs_section,
    subgroup_sections,
)
from rlvo.workflows.study import ReadStudy


@dataclass(frozen=True, eq=False)
class Report:
    """A report that was written."""

    page: Path
    files: tuple[Path, ...]
    """Tables (CSV) and figures (SVG, PNG), in a folder beside the page."""
    sections: tuple[Section, ...]
    """What it shows, as values."""


def write_report(study: ReadStudy, page: Path, *, progress: ShowProgress = no_progress) -> Report:
    """Write the report on a study as it stands now; its search may still run.

    Args:
        study: from `read_study`.
        page: where to write the page; files go to `<its stem>_files` beside it.

    Raises:
        RlvoError: files of the study are damaged.
        OSError: the page cannot be written.
    """
    steps, folder = 4, page.with_name(f"{page.stem}_files")
    if page.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    folder.mkdir(parents=True, exist_ok=True)  # before minutes of work: it may not be possible
    with progress("report") as advance:
        state = read_state(study.folder)
        trials = _ended(study)
        advance(1, steps)
        evidence, why = _evidence(study, trials)
        advance(2, steps)
        openings = _openings(study)
        sections = (*_sections(study, state, trials, evidence, why), provenance_section(study, evidence))
        sections = (*sections, guidelines_section(sections, {TRUST: TRUST_TITLE}))
        advance(3, steps)
        files = write_exhibits(sections, folder)
        cautions = [*_cautions(state, evidence, openings, is_synthetic=has_synthetic(study.inputs.table.index))]
        html = study_page(study.config.name, _facts(study, state, evidence, why), cautions, sections, folder.name)
        atomic_write(page, html)
        advance(4, steps)
    return Report(page, tuple(files), sections)


def _ended(study: ReadStudy) -> EndedTrials | None:
    try:
        return study.ended_trials()
    except RlvoError:  # none has finished
        return None


def _evidence(study: ReadStudy, trials: EndedTrials | None) -> tuple[Evidence | None, str]:
    """The evidence, or why there is none yet."""
    try:
        if trials is None:
            return None, "no trial has finished"
        rank_configurations(trials.records)
    except RlvoError as error:
        return None, error.what
    return gather_evidence(study, trials, kept_evaluation(study)), ""


def _openings(study: ReadStudy) -> list[str]:
    """How often patients of the hold-out were opened, in sentences."""
    split = study.inputs.split
    try:
        marks = patient_marks(study.inputs.table.loc[list(split.test)])
        earlier = Openings(study.work.path).earlier(marks, split.hash)
    except RlvoError as error:
        return [f"Nobody can say how often the hold-out was opened: {error.what}."]
    doubt = [f"{earlier.unknown} openings were of patients who are no longer known."] if earlier.unknown else []
    match len(earlier.openings):
        case 0:
            return ["The hold-out has not been opened: what is shown of models is from development patients.", *doubt]
        case 1:
            return ["Patients of the hold-out have been opened once.", *doubt]
        case times:
            known = f"Patients of the hold-out have been opened {times} times; only the first opening is unbiased."
            return [known, *doubt]


def _sections(
    study: ReadStudy, state: StudyState, trials: EndedTrials | None, evidence: Evidence | None, why: str
) -> Iterator[Section]:
    yield cohort_section(study)
    yield from biomarker_sections(study)
    if evidence is None:
        yield Section("models", "Results", [f"There are none yet: {why}."])
    else:
        yield models_section(evidence)
        yield specs_section(evidence)
        yield curves_section(evidence, study.config.ensemble.tie)
        yield from calibration_sections(evidence)
        yield from subgroup_sections(evidence)
        yield from ablation_sections(study)
    yield clinical_section(study)
    yield from kept_explanations(study)
    yield search_section(study, state, trials)


def _facts(study: ReadStudy, state: StudyState, evidence: Evidence | None, why: str) -> dict[str, str]:
    split, label = study.inputs.split, study.inputs.label
    ended = ", ".join(f"{count} {name}" for name in ("finished", "pruned", "failed", "running", "silent", "damaged")
                      if (count := state.count(name)))  # fmt: skip
    facts = {
        "Question": "Will a large-vessel occlusion be refractory to thrombectomy (rLVO)?",
        "Patients": f"{len(split.development)} for development in {len(split.folds)} folds, {len(split.test)} held "
        f"out; {int(label.sum())} of {len(label)} with rLVO",
        "Search": f"{len(state.configurations)} of {state.configurations_total} configurations started; "
        f"of {state.trials_total} trials {ended or 'none has started'}",
    }
    if evidence is None:
        return facts | {"Results": f"none yet: {why}"}
    model = models_exhibit(
        "own", "", [evidence.models[STUDY_ENSEMBLE]], standing=evidence.standing, about=""
    ).table.iloc[0]
    words = (
        f"{heading} {format_interval(model[metric], model[f'{metric}_low'], model[f'{metric}_high'])}"
        for metric, heading in METRICS.items()
    )
    return facts | {"The ensemble": ", ".join(words), "This is about": evidence.about}


def _cautions(
    state: StudyState, evidence: Evidence | None, openings: Sequence[str], *, is_synthetic: bool
) -> Iterator[str]:
    if is_synthetic:
        yield "The patients are SYNTHETIC: the figures show that the pipeline works, and nothing about real patients."
    yield from openings
    if evidence is not None and evidence.evaluation is None and evidence.is_frozen:
        yield "Of the ensembles as they are now, no opening of the hold-out has shown anything."
    if evidence is not None and evidence.evaluation is not None and (seen := evidence.evaluation.holdout.seen_before):
        yield f"{seen} of the hold-out's {len(evidence.own)} patients had been seen before it was opened: optimistic."
    yield (
        "Validation figures are optimistic: checkpoints, weights and thresholds were chosen on the same patients. "
        "Nested figures are chosen and fitted on other folds; only each member's best epoch was chosen on the patients "
        "shown."
    )
    if evidence is not None and evidence.basis.startswith("optimistic"):
        yield f"The nested figures are optimistic too: {evidence.basis.removeprefix('optimistic: ')}."
    if evidence is not None and not evidence.is_frozen:
        yield "No ensemble was built yet: those shown are what would be built now."
    if not state.is_complete:
        yield "The search is not complete: the figures may change."
    if failed := state.count("failed"):
        trials = f"{failed} trial{'s' if failed > 1 else ''}"
        yield f"{trials} failed; their configurations are left out ('rlvo status {state.name}' says why)."
