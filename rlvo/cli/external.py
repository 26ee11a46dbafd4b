"""A registered model on another cohort, and two of them on the same: what `rlvo evaluate` and `rlvo models` share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvo import NOTICE
from rlvo.cli.common import console, emit_json, progress_bar, say
from rlvo.cli.predict import shift_of
from rlvo.config.workdir import Workdir
from rlvo.errors import RlvoError
from rlvo.files import atomic_write

if TYPE_CHECKING:
    import pandas as pd

    from rlvo.registry.external import ExternalCohort


def evaluate_elsewhere(model: str, table: Path, workdir: Path, *, record: str | None, json: bool) -> None:
    """External validation of a registered model: figures at its frozen thresholds, by center; nothing is fitted.

    Args:
        record: title under which the figures are added to the version's description.
    """
    from rlvo.evaluation.answers import answer_figures, answer_subgroups
    from rlvo.registry.card import add_to_description
    from rlvo.registry.location import find_version, locate_model
    from rlvo.report.calibration import draw_reliability
    from rlvo.report.external import figure_lines, figures_json, figures_table
    from rlvo.report.subgroups import subgroup_table

    work = Workdir(workdir.expanduser().resolve())
    uri = work.tracking_uri()
    is_folder = (Path(model).expanduser() / "MLmodel").is_file()
    if is_folder and record:
        fix = "Name a registered version, or leave --record out"
        raise RlvoError("a folder has no description that figures could be added to", where=model, fix=fix)
    version = None if is_folder else find_version(model, uri)  # now: an alias may move meanwhile
    named = model if version is None else f"{version.name}/{version.version}"
    root = locate_model(named, uri)
    cohort = open_cohort(table, [root], work)
    for warning in shift_of(root, cohort.raw):
        say(f"warning: {warning}")
    answers = ask(root, cohort, work, description="patients")
    figures = answer_figures(answers, cohort.label)
    subgroups = answer_subgroups(answers, cohort.label, cohort.table)

    kept = _beside(work, cohort, root)
    atomic_write(kept.with_suffix(".csv"), answers.assign(label=cohort.label).drop(columns="notice").to_csv())
    if figures.calibration is not None:
        probability = answers["probability"].dropna()
        label = cohort.label.loc[probability.index].to_numpy(int)
        draw_reliability(kept, label, probability.to_numpy(), name="External validation", found=figures.calibration)
    if version is not None and record:
        lines = [*_excluded_lines(cohort), *figure_lines(figures)]
        add_to_description(uri, version.name, version.version, record, lines)
    if json:
        emit_json(
            {
                "model": named,
                **selection_json(cohort),
                **figures_json(figures),
                "subgroups": [{**vars(each), "levels": each.levels.to_dict("records")} for each in subgroups],
                "answers": kept.with_suffix(".csv"),
                "notice": NOTICE,
            }
        )
        return
    console.print(figures_table(figures, cohort.selection, title=f"{named} on {table.name}"))
    if subgroups:
        console.print(subgroup_table(subgroups, title="\nin subgroups"))
    picture = f", {kept.with_suffix('.svg')}" if figures.calibration is not None else ""
    say(f"answers and warnings: {kept.with_suffix('.csv')}{picture}")
    if version is not None and record:
        say(f"added to the description of {version.name} version {version.version}")
    say(NOTICE)


def compare_models(models: tuple[str, str], table: Path, workdir: Path, *, json: bool) -> None:
    """Two registered models on the same patients of a cohort."""
    from rlvo.evaluation.answers import compare_answers
    from rlvo.registry.location import locate_model
    from rlvo.report.external import comparison_json, comparison_table

    work = Workdir(workdir.expanduser().resolve())
    roots = [locate_model(model, work.tracking_uri()) for model in models]
    cohort = open_cohort(table, roots, work)
    a, b = (ask(root, cohort, work, description=model) for root, model in zip(roots, models, strict=True))
    compared = compare_answers(a, b, cohort.label)
    if json:
        shown = {"a": models[0], "b": models[1], **selection_json(cohort), **comparison_json(compared)}
        emit_json({**shown, "notice": NOTICE})
        return
    counted = f"{compared.patients} patients ({compared.positives} with rLVO)"
    console.print(comparison_table(compared, models, title=f"{table.name}: {counted} whom both answer for"))
    if compared.neither:
        say(f"neither answers for {compared.neither} patients")
    say(NOTICE)


def open_cohort(table: Path, roots: Sequence[Path], work: Workdir) -> ExternalCohort:
    """The other cohort, checked and selected.

    Raises:
        RlvoError: it is at fault, or holds patients whom a study of the work folder held out, or whom a model was made
            on.
    """
    from rlvo.registry.external import models_columns, read_external, split_of
    from rlvo.search.membership import shared_patients
    from rlvo.search.status import study_folders

    cohort = read_external(table, models_columns(roots))
    splits = {split_of(root) for root in roots}
    for shared in shared_patients(cohort.table, study_folders(work.path / "studies")):
        if shared.test:
            raise RlvoError(
                f"{len(shared.test)} of these patients are the hold-out of study {shared.study}, say {shared.test[0]}",
                where=table,
                fix=f"'rlvo evaluate {shared.study}' opens it, on record; leave them out here",
            )
        if shared.development and shared.split_hash in splits:
            raise RlvoError(
                f"the model was made on {len(shared.development)} of these patients, say {shared.development[0]}",
                where=table,
                fix="Leave them out: what it says of them is optimistic",
            )
    for name in cohort.lacking:
        say(f"no column {name}: missing for every patient")
    return cohort


def ask(root: Path, cohort: ExternalCohort, work: Workdir, *, description: str) -> pd.DataFrame:
    """The model's answers, of which those it gave before are taken from the work folder."""
    from rlvo.registry.external import answers_folder, external_answers

    kept = answers_folder(work.path, cohort.path) / "answered.jsonl"
    with progress_bar(description) as progress:
        return external_answers(root, cohort, kept, progress=progress)


def selection_json(cohort: ExternalCohort) -> dict[str, Any]:
    """Who was considered, and how many each rule excluded."""
    excluded = {exclusion.rule: len(exclusion.patients) for exclusion in cohort.selection.excluded}
    return {"considered": cohort.selection.considered, "excluded": excluded, "lacking_columns": list(cohort.lacking)}


def _excluded_lines(cohort: ExternalCohort) -> list[str]:
    excluded = cohort.selection.considered - len(cohort.selection.included)
    lines = [f"{cohort.selection.considered} patients, {excluded} excluded by the rules of the development cohort"]
    return lines + ([f"columns that were missing: {', '.join(cohort.lacking)}"] if cohort.lacking else [])


def _beside(work: Workdir, cohort: ExternalCohort, root: Path) -> Path:
    """Where this model's answers and pictures go, without a suffix."""
    from rlvo.files import file_sha256
    from rlvo.registry.external import answers_folder
    from rlvo.registry.model import MANIFEST

    return answers_folder(work.path, cohort.path) / f"model-{file_sha256(root / MANIFEST)[:12]}"
