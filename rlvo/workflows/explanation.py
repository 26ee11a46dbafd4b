"""One patient explained by a registered model: as values, and as a page with its tables, pictures and maps as files."""

import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd

from rlvo.cohort.tables import RawTable
from rlvo.cohort.variables import VOLUMES, known_variables
from rlvo.config.workdir import Workdir
from rlvo.errors import RlvoError
from rlvo.explain.gradcam import Which
from rlvo.files import atomic_write
from rlvo.imaging.volume import write_on_grid
from rlvo.inference.explanation import Explanation
from rlvo.inference.saliency import Group
from rlvo.progress import ShowProgress, no_progress
from rlvo.registry.admission import AdmittedModel
from rlvo.registry.client import check_patients, explain_answer
from rlvo.report.decision import decision_exhibit, format_signed, training_exhibit
from rlvo.report.exhibit import Section, write_exhibits
from rlvo.report.patient_page import map_warnings, patient_page, saliency_exhibit, votes_exhibit
from rlvo.study.folder import started_studies
from rlvo.study.membership import SharedPatients, refuse_held_out


@dataclass(frozen=True, eq=False)
class ExplainedPatient:
    """A registered model's answer for one patient, and why."""

    patient: str
    model: str
    """NAME/NUMBER, or the model's folder."""
    explanation: Explanation
    warnings: tuple[str, ...]
    """Those of the answer, and what else limits it."""
    side: str | None
    """Of the occlusion, if the table has it."""
    outcome: int | None = None
    """1 for rLVO, 0 for none; None if it isn't known, as of a new patient."""

    @property
    def answer(self) -> dict[str, Any]:
        """The row that `predict` gives for the patient."""
        return self.explanation.facts.answer

    @cached_property
    def votes(self) -> pd.DataFrame:
        """One row per fold: the members' probabilities by modality, the combined score, the threshold."""
        votes = [asdict(vote) for vote in self.explanation.facts.votes]
        rows = pd.DataFrame([{"fold": vote["fold"], **vote.pop("probabilities"), **vote} for vote in votes])
        return rows.dropna(axis="columns", how="all")  # most ensembles have no baselines

    @cached_property
    def values(self) -> pd.DataFrame:
        """One row per predictor, the largest effect first: what its value adds to the score, and where it lies.

        Columns as in `rlvo.inference.table_values.TableValue`. Empty if no network reads the table.
        """
        values = [asdict(value) for value in self.explanation.facts.values]
        return pd.DataFrame(values, dtype=object).infer_objects() if values else pd.DataFrame()

    def write(self, page: Path) -> list[Path]:
        """Write the page, and its tables, pictures and maps to `<its stem>_files` beside it; return the files' paths.

        Files of the same names that an earlier page left are replaced or, if this page has none, removed.

        Raises OSError if something cannot be written.
        """
        folder, sections = page.with_name(f"{page.stem}_files"), [*self._sections()]
        page.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=page.parent, prefix=f".{page.name}.") as staging:
            written = write_exhibits(sections, Path(staging))
            written += self.explanation.saliency.write(Path(staging), self.explanation.facts.grid)
            for name, volume in self.explanation.volumes.items():
                written.append(Path(staging) / f"{name}.nii.gz")
                # NIfTI has no half precision.
                whole = volume if volume.dtype != np.float16 else volume.astype(np.float32)
                write_on_grid(written[-1], whole, self.explanation.facts.grid)
            html = patient_page(self.patient, self._facts(), self.warnings, sections, folder.name)
            folder.mkdir(exist_ok=True)
            for name in _names_of_files():
                (folder / name).unlink(missing_ok=True)
            for path in written:
                os.replace(path, folder / path.name)
            atomic_write(page, html)
        return [folder / path.name for path in written]

    def _facts(self) -> dict[str, str]:
        answer, facts = self.answer, self.explanation.facts
        score = format_signed(answer["score"])
        outcome = {} if self.outcome is None else {"Outcome": "rLVO" if self.outcome else "no rLVO"}
        shown = outcome | {
            "Answer": "Alert: a refractory occlusion is to be expected" if answer["rlvo"] else "No alert",
            "Votes": f"{answer['votes']} of {answer['folds']} folds vote for rLVO",
            "Score": f"{score}, a margin: above 0 it speaks for rLVO",
        }
        if answer["probability"] is not None:
            shown["Probability"] = f"{answer['probability']:.2f}, calibrated"
        if facts.patients is not None and facts.prevalence is not None:
            shown["Trained on"] = f"{facts.patients} patients, {facts.prevalence:.0%} of them with rLVO"
        shown["Answered by"] = f"{self.model}, the ensemble '{facts.ensemble}'"
        return shown | {"Written": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"}

    def _sections(self) -> Iterator[Section]:
        facts, explanation = self.explanation.facts, self.explanation
        yield Section("answer", "The answer", exhibits=[votes_exhibit(self.votes)])
        maps, checks = explanation.saliency.maps["all"], explanation.saliency.checks
        picture = saliency_exhibit(explanation.volumes, maps, checks, facts.grid, self.side)
        yield Section("image", "The image", exhibits=[picture])
        if facts.typical_score is None:
            yield Section("table", "The table", ["No network of this ensemble reads the table."])
            return
        answer, variables = self.answer, known_variables(facts.own)
        moved = decision_exhibit(self.values, facts.typical_score, answer["score"], answer["rlvo"], variables)
        beside = training_exhibit(self.values, facts.patients, variables)
        yield Section("table", "The table", exhibits=[moved, beside])


def explain_patient(
    model: AdmittedModel,
    raw: RawTable,
    folder: Path,
    patient: str,
    *,
    work: Workdir | None = None,
    check: bool = True,
    progress: ShowProgress = no_progress,
) -> ExplainedPatient:
    """Let a registered model answer for one patient of a table and explain it, by its own code in its own process.

    Args:
        raw, folder: of `rlvo.workflows.answers.read_patients`.
        patient: the id.
        work: the work folder whose studies' hold-outs must not be asked about.
        check: whether to check the saliency maps, which takes most of the time.

    Raises:
        CohortError: patients cannot be told apart, or cells from one another.
        RlvoError: there is no such patient, or one who cannot be scored or whom a study holds out; the model was
            registered before models could explain.
    """
    patients, shared = check_patients(model.folder, raw, folder), list[SharedPatients]()
    if work is not None:
        shared = refuse_held_out(patients.typed, started_studies(work.studies), f"patient {patient}", asked=patient)
    with progress("explaining") as advance:
        explanation = explain_answer(model.folder, patients, patient, progress=advance, check=check)
    split = explanation.facts.split_hash
    own = [each.study for each in shared if each.split_hash == split and patient in each.development]
    warnings = [model.caution] if model.caution else []
    warnings += [f"This patient belongs to study {name}, on which the model was developed." for name in own]
    warnings += warnings_of(explanation)
    return ExplainedPatient(patient, model.name, explanation, tuple(warnings), occlusion_side(patients.typed, patient))


def warnings_of(explanation: Explanation) -> list[str]:
    """Those of the answer, and what must be said about its maps."""
    answer = [each for each in str(explanation.facts.answer["warnings"]).split("; ") if each]
    return answer + map_warnings(explanation.saliency.maps["all"], explanation.saliency.checks)


def occlusion_side(table: pd.DataFrame, patient: str) -> str | None:
    """Of a patient of a typed table; None if it isn't known."""
    if "occlusion_side" not in table:
        return None
    return next(iter(table.loc[[patient], "occlusion_side"].dropna().astype(str)), None)


def check_page(page: Path) -> None:
    """Raise RlvoError if the page would be written over something that isn't one."""
    if page.suffix.lower() not in (".html", ".htm"):
        raise RlvoError("not the name of a page", where=page, fix="Let it end in .html")


def _names_of_files() -> Iterator[str]:
    """Every file that `ExplainedPatient.write` may leave beside a page."""
    for name in ("votes", "saliency", "decision", "training-patients"):
        yield from (f"{name}{suffix}" for suffix in (".csv", ".svg", ".png"))
    for name in (*(f"{group.lower()}-{which}" for group in get_args(Group) for which in get_args(Which)), *VOLUMES):
        yield f"{name}.nii.gz"
