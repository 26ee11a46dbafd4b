"""A first study for a cohort: what its table allows, and what is worth trying on this machine for so many patients."""

import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from rlvo.cohort.leaks import suspected_leaks
from rlvo.cohort.mapping import suggest_column
from rlvo.cohort.reading import Cohort, examine_table, read_cohort
from rlvo.cohort.splits import Split, make_split
from rlvo.cohort.tables import read_table
from rlvo.cohort.variables import CTP, PERFUSION, VARIABLES, check_predictors, source_columns
from rlvo.config.predictors import PAPER_PREDICTORS, OwnPredictor
from rlvo.config.reference import SCHEMA_LINE
from rlvo.config.sections import FoldsConfig
from rlvo.errors import RlvoError
from rlvo.evaluation.power import auc_power
from rlvo.imaging.biomarkers import declarations

MOST_FOLDS = 4
"""The paper's number of folds."""
LEAST_IN_FOLD = 5
"""Patients of the rarer class that validate each fold, if the cohort has so many: fewer give a threshold by chance."""
LEAST_IN_HOLDOUT = 10
"""The same in the hold-out; where the usual share holds fewer, the larger share is held out."""
USUAL_SHARE, LARGER_SHARE = 0.2, 0.3
FEW, MANY = 300, 1000
"""Below the first, only what has to be compared; from the second on, hyperparameters are searched too."""
MOST = 1e12
"""No column is expected to hold larger numbers."""
NUMERIC_SHARE = 0.9
"""Of the cells that hold something, as many are numbers in a column of numbers."""
PAPER_GRID_GB = 40
"""GPU memory (1e9 bytes) from which the paper's grid is proposed: a batch of 4 keeps up to 34 GB of maps."""


@dataclass(frozen=True)
class Machine:
    """What trials will run on."""

    place: str
    cpus: int
    gpus: int
    gpu_gb: float | None = None
    """Memory of a GPU in 1e9 bytes; None if it is not known."""

    @classmethod
    def here(cls) -> "Machine":
        """This machine."""
        import torch

        gpus = torch.cuda.device_count()
        gb = min((torch.cuda.get_device_properties(i).total_memory / 1e9 for i in range(gpus)), default=None)
        return cls("this machine", len(os.sched_getaffinity(0)), gpus, gb)

    @classmethod
    def at(cls, address: str) -> "Machine":
        """The Ray cluster at an address. Raises MachineError if none answers there."""
        from rlvo.ray_session import cluster_resources

        found = cluster_resources(address)
        return cls("the cluster", int(found.get("CPU", 1)), int(found.get("GPU", 0)))

    def __str__(self) -> str:
        memory = f" of {self.gpu_gb:.0f} GB" if self.gpu_gb else ""
        return f"{self.place}: {self.cpus} CPU cores, {f'{self.gpus} GPUs{memory}' if self.gpus else 'no GPU'}"


@dataclass(frozen=True, eq=False)
class FirstStudy:
    """A study file, and what is to be known about it."""

    text: str
    notes: tuple[str, ...]
    """What had to be decided to read the table, and what was left out."""


def propose_study(table: Path, out: Path, machine: Machine, mapping: Mapping[str, str] | None = None) -> FirstStudy:
    """Write (as text) a study for a cohort table: predictors that it has, folds that it allows, a space to begin with.

    Args:
        table: the cohort table.
        out: where the file will be, which the table's path is relative to.
        machine: what trials will run on.
        mapping: our column names to the table's, if they differ.

    Raises:
        RlvoError: the table cannot be read, or has too few patients of a class.
        CohortError: everything that is wrong with the columns it has.
    """
    mapping = dict(mapping or {})
    left_out = _left_out(table, mapping)
    predictors = tuple(name for name in PAPER_PREDICTORS if name not in left_out)
    cohort = read_cohort(table, predictors, mapping=mapping)
    folds, split = _folds(cohort)
    parts = [
        _head(table, out, cohort, machine),
        _cohort_part(
            table, out, mapping, predictors, left_out, cohort, _further_numbers(table, mapping, cohort, split)
        ),
        _model_part(machine),
        _folds_part(folds, split, cohort),
        _space_part(cohort, machine),
        ENSEMBLE_PART,
        _resources_part(machine),
    ]
    notes = [*cohort.notes, *(f"left out: {line}" for line in _grouped(left_out))]
    return FirstStudy("\n".join(parts), tuple(notes))


def _left_out(table: Path, mapping: Mapping[str, str]) -> dict[str, str]:
    """Why each of the paper's predictors that the table does not offer is left out."""
    raw = read_table(table, mapping)
    if "patient_id" not in raw.cells:
        return {}  # reading says so
    typed, _ = examine_table(raw.cells, decimal_comma=raw.decimal_comma)
    unknown = [name for name in map(str, raw.cells) if name not in VARIABLES]
    reasons = {}
    for name in PAPER_PREDICTORS:
        for column in source_columns([name]):
            if column not in typed:
                close = suggest_column(column, unknown)
                option = f"--map {shlex.quote(f'{column}={close}')}"
                reasons[name] = f"no column {column}" + (f"; if it is the column '{close}': {option}" if close else "")
            elif typed[column].isna().all():
                reasons[name] = f"column {column} has no readable value"
    return reasons


def _further_numbers(table: Path, mapping: Mapping[str, str], cohort: Cohort, split: Split) -> list[OwnPredictor]:
    """The columns of numbers that the study could declare as predictors: with a range that says nothing unless rlvo
    measured them (`rlvo prepare --biomarkers`).

    Left out are columns that only count the rows, and those that are outcomes by their names or tell the label.
    """
    raw, found, measured = read_table(table, mapping), [], {own.source: own for own in declarations()}
    for column in cohort.ignored:
        name = re.sub(r"[^a-z0-9]+", "_", column).strip("_")
        try:
            own = measured.get(column) or OwnPredictor(name=name, kind="continuous", range=(-MOST, MOST), source=column)
            check_predictors([name], [own])
        except (ValidationError, RlvoError):  # no possible name, or that of an outcome
            continue
        cells = raw.cells[["patient_id", column]].set_axis(["patient_id", name], axis=1)
        typed, _ = examine_table(cells, [own], decimal_comma=raw.decimal_comma)
        values, written = typed[name].dropna(), cells[name].astype(str).str.strip().ne("").sum()
        counts = values.is_monotonic_increasing and values.is_unique and (values % 1 == 0).all()
        if values.nunique() < 2 or len(values) < NUMERIC_SHARE * written or counts:
            continue
        development = list(split.development)
        if not suspected_leaks(typed.loc[development], cohort.label[development], [name], [own]):
            found.append(own)
    return found


def _grouped(left_out: Mapping[str, str]) -> list[str]:
    """A line per predictor that is left out; one for all of CT perfusion."""
    if {*CTP} <= {*left_out} and not any("--map" in left_out[name] for name in CTP):
        others = {name: why for name, why in left_out.items() if name not in CTP}
        return [f"{PERFUSION} ({', '.join(CTP)}): the table has none", *_grouped(others)]
    return [f"{name}: {why}" for name, why in left_out.items()]


def _folds(cohort: Cohort) -> tuple[FoldsConfig, Split]:
    """As many folds as the rarer class allows, and the hold-out."""
    rarer = int(min(cohort.label.sum(), (cohort.label == 0).sum()))
    share = USUAL_SHARE if USUAL_SHARE * rarer >= LEAST_IN_HOLDOUT else LARGER_SHARE
    number = min(max(int((1 - share) * rarer) // LEAST_IN_FOLD, 2), MOST_FOLDS)
    folds = FoldsConfig(test_fraction=share, folds=number)
    return folds, make_split(cohort.label, folds, cohort.included)


def _head(table: Path, out: Path, cohort: Cohort, machine: Machine) -> str:
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", out.stem).strip("-._") or "study"
    rlvo = int(cohort.label.sum())
    return f"""\
{SCHEMA_LINE}
# A first study of {_shown(table.name)}: {len(cohort.label)} patients, {rlvo} with rLVO.
# Written for {machine}. docs/configuration.md lists every field.
name: {_scalar(name)}
seed: 0
"""


def _cohort_part(
    table: Path,
    out: Path,
    mapping: Mapping[str, str],
    predictors: Sequence[str],
    left_out: Mapping[str, str],
    cohort: Cohort,
    further: Sequence[OwnPredictor],
) -> str:
    place = os.path.relpath(table.resolve(), out.resolve().parent)
    lines = ["cohort:", f"  table: {_scalar(place)}  # relative to this file; --cohort takes precedence"]
    if mapping:
        lines += ["  columns:  # rlvo's names: the table's", *(f"    {k}: {_scalar(v)}" for k, v in mapping.items())]
    lines += [f"  # Left out: {_shown(line)}" for line in _grouped(left_out)]
    if left_out or further:
        lines += ["  predictors:", *(f"    - {name}" for name in predictors)]
    else:
        lines += ["  # predictors: the paper's 18, all of which the table has"]
    if further:
        lines += ["    # More columns of numbers. What is known before the procedure can be a predictor, if declared:"]
        lines += [f"    # - {_declaration(each)}" for each in further]
    if cohort.ignored:
        lines += [f"  # Columns that rlvo does not know and does not use: {_shown(', '.join(cohort.ignored))}"]
    return "\n".join(lines) + "\n"


def _declaration(own: OwnPredictor) -> str:
    """How a column of numbers is declared; unit and range are the user's to fill in, unless rlvo knows them."""
    source = "" if own.source in (None, own.name) else f", source: {_scalar(_shown(str(own.source)))}"
    unit, lowest, highest = "UNIT", "LOWEST", "HIGHEST"
    if own.unit is not None and own.range is not None:
        unit, lowest, highest = own.unit, *(f"{end:g}" for end in own.range)
    return f"{{name: {own.name}, kind: continuous, unit: {unit}, range: [{lowest}, {highest}]{source}}}"


def _model_part(machine: Machine) -> str:
    if not machine.gpus:
        return """\
# Without a GPU: a coarse grid around the circle of Willis and a narrow network, which train in minutes.
grid: focus  # 32 x 24 x 20 voxels of 4 mm; whole: the head, five times the work

model:
  backbone: densenet121
  densenet: {init_features: 8, growth_rate: 8, block_config: [3, 3], stem_kernel: 3}
  daft: {identity_init: true}  # start as the image-only network

training:
  epochs: 20
  batch_size: 8  # at 1, batch norm can remove the signal (docs/method.md)
  learning_rate: 6e-3
  optimizer: adamw
  weight_decay: 1e-5
  schedule: one_cycle
  clip_norm: 5
"""
    if machine.gpu_gb and machine.gpu_gb >= PAPER_GRID_GB:
        grid = "grid: paper  # 246 x 295 x 258 voxels; head: without the air around it, a quarter less to compute"
    else:
        known = (
            "has too little memory for the paper's grid" if machine.gpu_gb else "may have too little for the paper's"
        )
        grid = (
            f"# 2 mm over the whole head: the GPU {known} for the paper's grid ({PAPER_GRID_GB} GB).\n"
            "grid: {shape: [98, 116, 94], spacing: [2, 2, 2], origin: [-97.5, -133.5, -71.5]}"
        )
    return f"""\
{grid}

model:
  backbone: densenet121

training:
  epochs: 60
  batch_size: 4  # at the paper's 1, batch norm can remove the signal (docs/method.md)
  learning_rate: 1e-4
  optimizer: adamw
  weight_decay: 1e-5
  clip_norm: 5
"""


def _folds_part(folds: FoldsConfig, split: Split, cohort: Cohort) -> str:
    positives = [int(cohort.label[list(part)].sum()) for part in (split.test, *split.folds)]
    power = auc_power(len(split.test), positives[0])
    others = [
        f"  # holdout: {kind}  # or {what}"
        for kind, column, what in (
            ("temporal", "admission_date", "the latest admissions: nearer to how it will be used"),
            ("center", "center", "all patients of test_centers: whether it holds elsewhere"),
        )
        if column in cohort.included and cohort.included[column].notna().all() and cohort.included[column].nunique() > 1
    ]
    validating = ", ".join(map(str, positives[1:]))
    return "\n".join(
        [
            f"# Hold-out: {USUAL_SHARE:.0%}; {LARGER_SHARE:.0%} if that has fewer than {LEAST_IN_HOLDOUT} of a class.",
            f"# {power.statement}.",
            f"# Folds: as many, from 2 to {MOST_FOLDS}, as leave {LEAST_IN_FOLD} of the rarer class to validate each. "
            f"With rLVO: {validating}.",
            "folds:",
            f"  test_fraction: {folds.test_fraction:g}",
            f"  folds: {folds.folds}",
            *others,
            "",
        ]
    )


def _space_part(cohort: Cohort, machine: Machine) -> str:
    patients = len(cohort.label)
    axes = "    model.modality: [NCCT, CTA, BOTH]  # an ensemble needs each\n    model.fusion: [none, daft]\n"
    has_masks = "vessels" in cohort.included and cohort.included["vessels"].notna().all()
    use_prior = bool(has_masks and machine.gpus and patients >= FEW)
    axes += (
        f"    {'' if use_prior else '# '}model.prior: [false, true]  # vessel mask, from CTA: NCCT with it has seen CTA"
        f"{'' if use_prior else '. Doubles the work'}\n"
    )
    if patients < FEW:
        return f"""\
# {patients} patients are few: each further choice fits noise in the validation patients. So only what has to be
# compared is: the images, and whether the table helps.
space:
  enumerate:
{axes}"""
    if patients < MANY:
        return f"""\
# {patients} patients: the paper's comparison (of 599) with one backbone. Tuning hyperparameters too would fit noise.
space:
  enumerate:
{axes}"""
    high = 1e-3 if machine.gpus else 2e-2
    number, epochs = 48, 60 if machine.gpus else 20
    per_combination = number // (12 if use_prior else 6)
    return f"""\
# {patients} patients are enough to tune hyperparameters: Optuna proposes them, and halving stops hopeless ones early,
# so that most of the work goes into good ones.
space:
  enumerate:
{axes}  sample:
    training.learning_rate: {{low: {high / 100:g}, high: {high:g}, log: true}}
    training.weight_decay: {{low: 1e-6, high: 1e-2, log: true}}
    model.dropout: {{low: 0.0, high: 0.5, step: 0.1}}

search:
  sampler: tpe
  configurations: {number}  # {per_combination} per combination; more extend a finished study
  defaults_first: true
  pruning: halving
  min_epochs: {epochs // 4}
"""


ENSEMBLE_PART = """\
# Any model that adds to the others, a linear one of volumes and table too, counted by ridge regression: what
# docs/method.md found best.
# The paper's rule: best_per_modality, class_rates, none. The ensemble command's --compare shows others.
ensemble:
  selection: greedy
  weighting: stacked
  linear_image: with_table
"""


def _resources_part(machine: Machine) -> str:
    cpus = max(1, min(4, machine.cpus // machine.gpus)) if machine.gpus else 1
    gpus = "\n  gpus: 1  # 0.5: two trials share a GPU" if machine.gpus else ""
    at_once = machine.gpus or machine.cpus
    runs = "runs" if at_once == 1 else "run"
    return f"resources:  # per trial: {at_once} {runs} at once on {machine.place}\n  cpus: {cpus}{gpus}\n"


def _scalar(text: str) -> str:
    """A text as YAML, in quotes where it needs them."""
    return text if re.fullmatch(r"[A-Za-z_./][\w./-]*", text) and text.lower() not in RESERVED else json.dumps(text)


RESERVED = ("null", "true", "false", "yes", "no", "on", "off", "~")


def _shown(text: str) -> str:
    """What others wrote, on one line of a comment."""
    return " ".join(text.split())


def check_target(out: Path, *, force: bool) -> None:
    """Raise RlvoError if the study file is there already, or has the name of no study file."""
    if out.suffix not in (".yaml", ".yml"):
        raise RlvoError("a study is a YAML file", where=out, fix="Give it a name that ends in .yaml")
    if out.exists() and not force:
        raise RlvoError("there is a file of this name", where=out, fix="Give another name, or --force to replace it")
