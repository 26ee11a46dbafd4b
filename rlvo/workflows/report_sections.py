"""The sections of a report on a study: each function takes what is known, and gives what the page shows."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pandas as pd

from rlvo.about import code_version
from rlvo.cohort.selection import flow
from rlvo.cohort.variables import known_variables
from rlvo.config.base import by_path, content_hash
from rlvo.config.study import StudyConfig
from rlvo.ensemble.build import STUDY_ENSEMBLE
from rlvo.ensemble.selection import MODALITIES
from rlvo.errors import RlvoError
from rlvo.evaluation.odds import events_per_variable
from rlvo.registry.register import provenance
from rlvo.report.baselines import few_events, forest_plot, in_larger_steps, unbeaten
from rlvo.report.calibration import Reliability, calibration_exhibits
from rlvo.report.cohort_pictures import missingness_plot
from rlvo.report.curves import precision_recall_exhibit, roc_exhibit
from rlvo.report.decisions import confusion_exhibit, votes_exhibit
from rlvo.report.exhibit import Exhibit, Section
from rlvo.report.model_tables import ScoredModel, models_exhibit, paired_exhibit
from rlvo.report.search_figures import history_exhibit, importance_exhibit, parallel_exhibit
from rlvo.report.search_tables import compute_exhibit, configurations_exhibit, settings_exhibit
from rlvo.report.subgroup_pictures import subgroups_exhibit
from rlvo.report.table_one import CAPTION, HEADINGS, predictors_and_scores, table_one
from rlvo.search.history import read_history
from rlvo.study.folder import read_hashes
from rlvo.study.state import StudyState, finished_configurations
from rlvo.study.trials import EndedTrials
from rlvo.training.baseline import clinical_odds
from rlvo.training.usage import read_code, read_energy
from rlvo.workflows.biomarkers import section_of_table
from rlvo.workflows.cohort import draw_flow
from rlvo.workflows.evidence import Evidence
from rlvo.workflows.holdout_questions import CLINICAL, usefulness
from rlvo.workflows.study import ReadStudy

PRIVATE: Any = {"cohort": {"table"}, "atlas": True, "folds": {"test_patients"}, "mlflow": {"tracking_uri"}}
"""Settings that are places on the user's machine or of a service."""
PAPER_BACKBONES = ("densenet169", "efficientnet-b0")
"""Those of the paper's Table 3; its Table A1 has the others."""
ORIGIN = "Hash of the code, Python and packages are those that wrote this page."


def cohort_section(study: ReadStudy) -> Section:
    """Who was included, who the patients are, what is missing."""
    inputs, selection = study.inputs, study.inputs.selection
    steps = flow(selection)
    chart = draw_flow(selection.considered, steps, inputs.label, inputs.split)
    counts = [("in the table", selection.considered, selection.considered)]
    counts += [(step.rule, step.excluded, step.remaining) for step in steps]
    parts = {"development": inputs.split.development, "of them training only": inputs.split.training_only}
    for name, patients in {**parts, "hold-out": inputs.split.test}.items():
        if patients:
            counts.append((name, len(patients), int(inputs.label[list(patients)].sum())))
    table = pd.DataFrame(counts, columns=["step", "patients", "remaining, or with rLVO"])
    characteristics = table_one(inputs.table, inputs.label, inputs.split.test, inputs.own)
    values = predictors_and_scores(inputs.table, known_variables(inputs.own))
    missing = []
    if (count := values.isna().sum()).any():
        absent = count.rename_axis("variable").rename("patients_without").reset_index()
        note = "Of the included patients. Missing values are imputed from each fold's training patients."
        figure = missingness_plot(values)
        missing = [Exhibit("missing-values", "Missing values", absent, note, figure=figure)]
    rule = "Each patient is excluded by the first rule that applies."
    shown = characteristics.rename(columns=HEADINGS)
    return Section(
        "cohort",
        "Patients",
        exhibits=[
            Exhibit("cohort-flow", "Cohort flow (Fig. 1)", table, rule, figure=chart),
            Exhibit("table-1", "Table 1: patients", characteristics, CAPTION, shown=shown),
            *missing,
        ],
    )


def biomarker_sections(study: ReadStudy) -> Iterator[Section]:
    """What was measured in the scans, if the study's table holds it."""
    inputs, cohort = study.inputs, study.config.cohort
    assert cohort.table is not None  # open_study writes it
    own = section_of_table(cohort.table, inputs.table, inputs.label, inputs.split, cohort.columns)
    if own is not None:
        yield own


def models_section(evidence: Evidence) -> Section:
    """Table 2, and the paired tests."""
    baselines = [model for name, model in evidence.models.items() if name not in evidence.specs]
    same = [name for name in MODALITIES if name in evidence.models and name not in evidence.modalities]
    named = " = ".join([STUDY_ENSEMBLE, *same])  # a study of one modality has one ensemble by two names
    own = replace(evidence.models[STUDY_ENSEMBLE], name=named)
    models = [*baselines, *(evidence.models[name] for name in evidence.modalities), own]
    about, standing = evidence.about, evidence.standing
    table = models_exhibit(
        "table-2",
        "Table 2: clinical baselines, modalities, ensemble",
        models,
        standing=standing,
        about=about,
    )
    found = {(each.a, each.b): each.found for each in evidence.tests}
    paired = [paired_exhibit(found, standing=standing, about=about)] if found else []
    auc = {model.name: float(model.estimates["value"]["auc"]) for model in [*baselines, own]}
    told = unbeaten(auc.pop(own.name), auc)
    return Section("models", "Modalities, clinical baselines and the ensemble", told, [table, *paired])


def specs_section(evidence: Evidence) -> Section:
    """Table 3, and Table A1 if there are other backbones than the paper's beside them."""
    rows = list(evidence.by_spec.values())
    of_paper = [row for row in rows if row.design["backbone"] in PAPER_BACKBONES] or rows
    tables = {"table-3": of_paper, "table-a1": [row for row in rows if row not in of_paper]}
    titles = {"table-3": "Table 3: backbone × prior × fusion", "table-a1": "Table A1: other backbones"}
    exhibits = [
        models_exhibit(
            name,
            titles[name],
            models,
            standing=evidence.standing,
            about=evidence.about,
            note="Each row is the ensemble of one model spec's NCCT, CTA and BOTH models, as far as it has them.",
        )
        for name, models in tables.items()
        if models
    ]
    return Section("specs", "Backbones, vessel prior and fusion", [], exhibits)


def _shown_models(evidence: Evidence) -> list[ScoredModel]:
    """The clinical baseline, the modalities and the ensemble: those that curves are drawn of."""
    names = [CLINICAL, *evidence.modalities, STUDY_ENSEMBLE]
    return [evidence.models[name] for name in names if name in evidence.models]


def curves_section(evidence: Evidence, tie: str) -> Section:
    """Curves, confusion matrices and votes."""
    models, standing, about = _shown_models(evidence), evidence.standing, evidence.about
    exhibits = [each(models, standing=standing, about=about) for each in (roc_exhibit, precision_recall_exhibit)]
    exhibits.append(confusion_exhibit(models, standing=standing, about=about))
    text = []
    if "votes" in evidence.own:
        exhibits.append(votes_exhibit(evidence.own, tie, standing=standing, about=about))
    else:
        text = ["How the folds vote cannot be seen here: a development patient is new to one fold only."]
    return Section("discrimination", "Discrimination and decisions", text, exhibits)


def calibration_sections(evidence: Evidence) -> Iterator[Section]:
    """Of the ensemble and the clinical baseline, as far as they give probabilities."""
    answers = {model.name: model.answers for model in _shown_models(evidence) if model.name not in MODALITIES}
    useful = evidence.evaluation.usefulness if evidence.evaluation else usefulness(answers, evidence.own["label"])
    known = {name: answers[name].dropna(subset=["probability"]) for name in useful if name in answers}
    curves = {
        name: Reliability(own["label"].to_numpy(int), own["probability"].to_numpy(float), useful[name].calibration)
        for name, own in known.items()
    }
    if curves:
        benefits = {name: useful[name].benefit for name in curves}
        exhibits = calibration_exhibits(curves, benefits, standing=evidence.standing, about=evidence.about)
        yield Section("calibration-of-probabilities", "Calibration and usefulness", exhibits=exhibits)


def subgroup_sections(evidence: Evidence) -> Iterator[Section]:
    """The errors of the study's own ensemble, if the table has groups."""
    if evidence.subgroups:
        errors = subgroups_exhibit(evidence.subgroups, standing=evidence.standing, about=evidence.about)
        yield Section("subgroups", "Errors in subgroups", exhibits=[errors])


def clinical_section(study: ReadStudy) -> Section:
    """Odds ratios of the clinical variables."""
    inputs = study.inputs
    odds = clinical_odds(inputs.table, inputs.label, inputs.split, inputs.predictors, inputs.own)
    development = list(inputs.split.development)
    note = few_events(events_per_variable(inputs.label[development], len(odds)))
    bold = "" if note else " bold: p < 0.05, not corrected;"
    caption = (
        f"One logistic fit to all {len(development)} development patients; 95 % intervals: Wald;{bold} the CSV has "
        f"them per mL and per year. It describes the patients and validates nothing. {note}"
    ).rstrip()
    figure = forest_plot(in_larger_steps(odds), title="Odds ratios of rLVO", note=note)
    exhibit = Exhibit("odds-ratios", "Odds ratios of clinical variables (Fig. A1)", odds, caption, figure=figure)
    return Section("clinical", "Clinical variables", exhibits=[exhibit])


def search_section(study: ReadStudy, state: StudyState, trials: EndedTrials | None) -> Section:
    """What was tried, what mattered, what it took."""
    rows = [
        {"state": trial.state, "epochs": trial.epoch, "planned": each.epochs}
        | {"seconds": trial.record.seconds if trial.record else float("nan")}
        | {"joules": read_energy(study.folder.trial(each.key, trial.fold))}
        for each in state.configurations
        for trial in each.trials
    ]
    exhibits = [compute_exhibit(pd.DataFrame(rows))] if rows else []
    repeats = {
        repeat.key: {"configuration": each.key, "label": each.label}
        for each in finished_configurations(state.configurations)
        for repeat in each.repeats
    }
    best = [
        {**repeats[r.identity.configuration], "fold": r.identity.fold, "epochs": r.epochs, "seconds": r.seconds}
        | r.metrics
        for r in (trials.records if trials else ())
        if r.identity.configuration in repeats
    ]
    if best:
        exhibits.insert(0, configurations_exhibit(pd.DataFrame(best)))
    text = []
    try:
        history = read_history(study.config, study.folder)
    except RlvoError:
        why = f"'rlvo search {study.config.name}' says why"
        history, text = None, [f"Optuna's record of the search cannot be read now; {why}."]
    if state.at_chance:
        text.append(
            f"{state.at_chance} trial(s) never left chance: their networks do not even tell apart the patients they "
            "were trained on."
        )
    if state.restarted:
        text.append(f"{state.restarted} trial(s) had not left chance and started again with another seed.")
    if history is not None:
        proposals, importance = history.proposals, history.importance
        drawn = [history_exhibit(proposals), importance_exhibit(importance) if len(importance) else None]
        exhibits += [each for each in (*drawn, parallel_exhibit(proposals, importance)) if each is not None]
    return Section("search", "The search", text, exhibits)


def provenance_section(study: ReadStudy, evidence: Evidence | None) -> Section:
    """Code, data, seeds and settings; no place on the user's machine."""
    config, hashes = study.config, read_hashes(study.folder)
    rows: list[tuple[str, object]] = [("this page", code_version()), *_codes(study)]
    rows += provenance(config).items()
    rows += [(name, hashes[name]) for name in ("data_hash", "split_hash") if name in hashes]
    if evidence is not None:
        rows += [(f"hash of {name}", content_hash(spec)) for name, spec in evidence.specs.items()]
    rows += [("seed", config.seed), ("folds.seed", config.folds.seed), ("search.seed", config.search.seed)]
    origin = settings_exhibit("origin", "Code, data and seeds", rows, ORIGIN)
    settings = settings_exhibit("settings", "Settings", _settings(config), "Places of files and services are left out.")
    return Section("provenance", "Provenance", [], [origin, settings])


def _codes(study: ReadStudy) -> list[tuple[str, object]]:
    """How many trials were trained by which code."""
    codes = Counter(" and ".join(read_code(folder)) or "code not recorded" for folder in study.folder.trials())
    return [("trials", f"{count}: {code}") for code, count in codes.items()]


def _settings(config: StudyConfig) -> list[tuple[str, object]]:
    found = by_path(config.model_dump(mode="json", exclude=PRIVATE))
    return [(name, value) for name, value in found.items() if value is not None]
