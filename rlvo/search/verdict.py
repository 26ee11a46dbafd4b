"""Whether a study fits the machine that plans it, and how long it would take there: what is known before it runs."""

import math
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from pydantic import ValidationError

from rlvo.cohort.splits import read_split
from rlvo.config.commands import command_line
from rlvo.config.study import StudyConfig
from rlvo.config.workdir import Workdir
from rlvo.errors import RlvoError
from rlvo.search.calibration import Measured, measured_only
from rlvo.search.forecast import seconds_to_go
from rlvo.search.packing import gpus_here, settle_share
from rlvo.search.plan import PROCESS_BYTES, StudyPlan, trial_bytes
from rlvo.search.preflight import count_cpus, count_gpus, gpu_memory, machine_memory
from rlvo.study.folder import read_config, started_studies
from rlvo.study.specs import Spec, model_specs, spec_of
from rlvo.study.state import StudyState
from rlvo.training.records import RECORD, CompletionRecord
from rlvo.training.usage import Pace

Measure = Callable[[StudyConfig, int], Mapping[Spec, Measured | str]]
RAY_SECONDS = 10.0
"""What Ray takes to start, and its first workers to import torch, once per search."""


@dataclass(frozen=True)
class Verdict:
    """What this machine is to a study. Bytes are of memory unless they say disk."""

    fits: bool
    reasons: tuple[str, ...]
    """Why not."""
    device: str
    """`CPU` or `GPU`."""
    at_once: int
    """Trials that run at once; 0 if the machine lacks what one asks for."""
    trial_bytes: int
    """What the largest trial needs."""
    needed_bytes: int
    """What the largest trials at once need together."""
    available_bytes: int | None
    """Of the machine, or of all its GPUs; None if it has no GPU and trials ask for one."""
    disk_bytes: int
    """Checkpoints of all trials and, if a cohort is named, prepared volumes."""
    free_disk_bytes: int
    hours: float | None
    """About how long all trials take; None if it is not known."""
    pace: str
    """Where that is from, or how it can be known."""
    gpus: float = 0.0
    """Of a GPU per trial: the study's number, or what `auto` is here."""
    per_gpu: int = 0
    """Trials that have room on one GPU; 0 if they train on CPUs, or take more than one."""
    hours_without_pruning: float | None = None
    """The same if every trial ran to its end."""
    kwh: float | None = None
    """What the trials take of processors and GPUs; None if it was not measured, or is not counted here."""
    measured: tuple[Measured | str, ...] = ()
    """What was measured of each of the plan's models, or why it could not be run."""


def judge(
    config: StudyConfig,
    planned: StudyPlan,
    work: Workdir,
    *,
    file: Path | None = None,
    cohort: Path | None = None,
    development: int | None = None,
    measure: Measure | None = None,
) -> Verdict:
    """Compare a study with this machine, and with the trials that were measured in a work folder.

    Args:
        work: where the study would be; need not exist.
        file: the study's file, and
        cohort: its table, for a command that is proposed.
        development: patients who train and validate; None if that is not known.
        measure: measures the networks, told each trial's share and how many run at once; None: only trials of the work
            folder tell.
    """
    config = settle_share(config, planned, gpus_here())
    resources, asked, reasons = config.resources, config.resources.known_gpus, []
    on_gpu = asked > 0
    halved = on_gpu and config.training.mixed_precision
    needs = [
        trial_bytes(each, planned.grid, bfloat16=halved) + (0 if on_gpu else PROCESS_BYTES) for each in planned.models
    ]
    cores = count_cpus() // resources.cpus
    available: int | None
    if on_gpu:
        gpus, memory = count_gpus(), gpu_memory()
        share = max(math.floor(1 / asked), 1)
        at_once = min(cores, gpus * share if asked <= 1 else gpus // math.ceil(asked))
        available = round(memory * gpus) if gpus else None
        if gpus < asked:
            reasons.append(f"a trial asks for {asked:g} GPU, and this machine has {gpus}")
        elif max(needs) * share > memory:
            wanted = max(needs) * share / 1e9
            reasons.append(f"{share} trial(s) on a GPU may need {wanted:.1f} GB, and it has {memory / 1e9:.1f} GB")
    else:
        at_once, available = cores, round(machine_memory())
    at_once = min(at_once, config.search.concurrent_trials or at_once, planned.trials)
    if cores < 1:
        reasons.append(f"a trial asks for {resources.cpus} cores, and this machine has {count_cpus()}")
    needed = max(needs) * at_once
    if not on_gpu and available is not None and needed > available:
        reasons.append(f"{at_once} trials at once may need {needed / 1e9:.1f} GB, and it has {available / 1e9:.1f} GB")
    disk = planned.checkpoint_bytes + planned.store_bytes_a_patient * (planned.patients or 0)
    place = next(folder for folder in (work.path, *work.path.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if disk > free:
        reasons.append(f"it may need {disk / 1e9:.1f} GB of disk, and {free / 1e9:.1f} GB are free in {place}")
    found = measure(config, at_once) if measure is not None and at_once else {}
    paces, pace = _paces(config, planned, work, measured_only(found), file=file, cohort=cohort, development=development)
    hours = whole = watts = None
    if paces and at_once:
        hours = _hours(config, paces, at_once)
        whole = _hours(config.with_setting("search.pruning", "none"), paces, at_once)
        watts = [each.watts for each in measured_only(found).values() if each.watts is not None]
    return Verdict(
        fits=not reasons,
        reasons=tuple(reasons),
        device="GPU" if on_gpu else "CPU",
        at_once=at_once,
        trial_bytes=max(needs),
        needed_bytes=needed,
        available_bytes=available,
        disk_bytes=disk,
        free_disk_bytes=free,
        hours=hours,
        pace=pace if at_once else "no trial can run on this machine",
        gpus=asked,
        per_gpu=math.floor(1 / asked) if 0 < asked <= 1 else 0,
        hours_without_pruning=whole,
        kwh=fmean(watts) * at_once * hours / 1000 if watts and hours is not None else None,
        measured=tuple(found.values()),
    )


def _hours(config: StudyConfig, paces: Mapping[Spec, Pace], at_once: int) -> float:
    """About how long all trials take."""
    before = StudyState(config.name, config.configurations, config.folds.folds, config.training.epochs, ())
    return (RAY_SECONDS + seconds_to_go(config, before, paces, at_once)) / 3600


def _paces(
    config: StudyConfig,
    planned: StudyPlan,
    work: Workdir,
    measured: Mapping[Spec, Measured],
    *,
    file: Path | None,
    cohort: Path | None,
    development: int | None,
) -> tuple[dict[Spec, Pace], str]:
    """The pace of each model spec, empty if it is not known, and where that is from."""
    per_patient = {} if measured else measured_paces(config, work)
    if not measured and not per_patient:
        table = () if cohort is None else ("--cohort", cohort)
        again = command_line("plan", file or config.name, *table, "--measure", workdir=work.path)
        return {}, f"nothing like it was measured in {work.path}. A short measurement tells: '{again}'"
    if development is None:
        return {}, "the number of patients is not known: name the cohort (--cohort)"
    known = {spec: each.pace(development, config.folds.folds) for spec, each in measured.items()} or {
        spec: Pace(each * development) for spec, each in per_patient.items()
    }
    specs = dict.fromkeys(map(spec_of, model_specs(config)))
    cost = {spec: model.forward_gflop for spec, model in zip(specs, planned.models, strict=True)}
    known = {spec: pace for spec, pace in known.items() if spec in cost}
    per_gflop = fmean(pace.epoch / cost[spec] for spec, pace in known.items())
    paces = {spec: known.get(spec, Pace(per_gflop * cost[spec])) for spec in specs}
    others = f"; {len(specs) - len(known)} of {len(specs)} networks by their GFLOP" if len(known) < len(specs) else ""
    return paces, ("measured on this machine" if measured else f"from trials measured in {work.path}") + others


def measured_paces(config: StudyConfig, work: Workdir) -> dict[Spec, float]:
    """Seconds per patient and epoch of the study's model specs that were trained on its grid in a work folder."""
    wanted, found = {*map(spec_of, model_specs(config))}, dict[Spec, list[float]]()
    for study in started_studies(work.studies):
        with suppress(RlvoError):
            if read_config(study).grid != config.grid:
                continue
            patients = len(read_split(study.split).development)
            for record in _trained(study.trials()):
                spec = spec_of(record.configuration)
                if spec in wanted:
                    found.setdefault(spec, []).append(record.seconds / record.epochs / patients)
    return {spec: fmean(paces) for spec, paces in found.items()}


def _trained(trials: Iterable[Path]) -> Iterable[CompletionRecord]:
    """The records of trials that trained; those that cannot be read are passed over."""
    for trial in trials:
        with suppress(FileNotFoundError, ValidationError):
            record = CompletionRecord.model_validate_json((trial / RECORD).read_bytes())
            if record.epochs:
                yield record
