"""A study's inputs: cohort read, selected, labelled, split and prepared, the same at every start."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from rlvo.cohort.label import rlvo_label
from rlvo.cohort.reading import Cohort, data_hash, read_cohort
from rlvo.cohort.selection import select
from rlvo.cohort.splits import Split, make_split, read_split, write_split
from rlvo.config.base import content_hash
from rlvo.config.study import StudyConfig
from rlvo.config.workdir import Workdir
from rlvo.errors import CohortError, Finding, RlvoError
from rlvo.files import atomic_write
from rlvo.imaging.atlas import brain_mask
from rlvo.imaging.cohort_preparation import PreparedCohort, prepare_cohort
from rlvo.imaging.store import VolumeStore
from rlvo.imaging.target import Target
from rlvo.search.inputs import StudyInputs
from rlvo.search.plan import check_models, model_specs
from rlvo.search.status import STUDY, read_study

SPLIT, INPUTS = "split.json", "inputs.json"
MAY_CHANGE = ("cohort.table", "atlas", "folds.test_patients", "search.configurations", "search.concurrent_trials",
              "search.max_failures", "resources.", "mlflow.", "ensemble.")  # fmt: skip
"""Fields that change no trial (what the files hold is checked by itself): a study goes on, or is
extended, with other values."""

ProgressFactory = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]
"""Takes a description, gives a context whose value is called with (done, total)."""


def open_study(
    study: StudyConfig, cohort_path: Path, workdir: Workdir, *, progress: ProgressFactory, workers: int | None = None
) -> StudyInputs:
    """Read and check everything a study needs, prepare its volumes, and freeze its configuration and split.

    A patient whose volumes are refused is excluded, as by any rule of the selection.

    The first start writes `study.json`, `split.json` and `inputs.json` to the study folder; later ones must agree.

    Raises:
        RlvoError: the cohort, a volume or a network's size is at fault, or the study of this name was another one.
    """
    folder = workdir.study(study.name)
    study = study.model_copy(
        update={"cohort": study.cohort.model_copy(update={"table": cohort_path.expanduser().resolve()})}
    )
    _check_same_study(study, folder / STUDY)
    check_models(study)

    everyone = read_cohort(cohort_path, study.cohort.predictors)
    cohort = everyone.subset(select(everyone, study.cohort.predictors).included)
    make_split(rlvo_label(cohort.table), study.folds, cohort.table)  # too few patients: told before hours of work
    store, target = VolumeStore(workdir.store), Target(grid=study.grid, atlas=study.atlas)
    with progress("preparing volumes") as advance:
        volumes = _prepared(cohort, target, store, workers, advance)
    cohort = cohort.subset(volumes.prepared)
    addresses = {patient: each.address for patient, each in volumes.prepared.items()}
    _check_vessels(study, {patient: store.folder(address) for patient, address in addresses.items()})
    label = rlvo_label(cohort.table)
    split = _fixed_split(make_split(label, study.folds, cohort.table), folder / SPLIT)
    table_hash = data_hash(cohort, addresses, study.cohort.predictors)
    inputs = StudyInputs(
        study=study.name,
        predictors=study.cohort.predictors,
        table=cohort.table,
        label=label,
        split=split,
        volumes={patient: store.folder(address) for patient, address in addresses.items()},
        target=target,
        brain_mask=brain_mask(study.grid),
        data_hash=content_hash({"table": table_hash, "volumes": addresses}),
        excluded=select(everyone, study.cohort.predictors, refused=volumes.refused).excluded,
        doubts={patient: each.doubts for patient, each in volumes.prepared.items() if each.doubts},
        refused=volumes.refused,
    )
    _check_same_data(inputs, folder / INPUTS)
    write_split(split, folder / SPLIT)
    atomic_write(folder / INPUTS, json.dumps({"data_hash": inputs.data_hash, "split_hash": split.hash}, indent=1))
    atomic_write(folder / STUDY, study.model_dump_json(indent=1))
    return inputs


def _check_same_study(study: StudyConfig, path: Path) -> None:
    if not path.exists():
        return
    before = _by_path(read_study(path.parent).model_dump(mode="json"))
    now = _by_path(study.model_dump(mode="json"))
    changed = [
        f"{path}: {before.get(path)!r} became {now.get(path)!r}"
        for path in dict.fromkeys([*before, *now])
        if before.get(path) != now.get(path) and not path.startswith(MAY_CHANGE)
    ]
    if changed:
        raise RlvoError(
            f"a study of this name has other settings ({'; '.join(changed)})",
            where=study.name,
            fix="Give the study another name, or use the settings it was started with",
        )


def _by_path(settings: dict, prefix: str = "") -> dict[str, object]:
    """Every value of nested settings by its dotted path."""
    values: dict[str, object] = {}
    for key, value in settings.items():
        values |= _by_path(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return values


def _check_vessels(study: StudyConfig, volumes: Mapping[str, Path]) -> None:
    if not any(configuration.model.prior for configuration in model_specs(study)):
        return
    if without := [patient for patient, folder in volumes.items() if not (folder / "vessels.npy").exists()]:
        raise RlvoError(
            f"models with the prior take a vessel mask; {len(without)} patient(s) have none, and a CTA too coarse to "
            f"find vessels in: {', '.join(without[:5])}",
            where="vessels",
            fix="Add the masks, or set model.prior to false",
        )


def _fixed_split(split: Split, path: Path) -> Split:
    """The split as it was written at the first start, where it is still this cohort's."""
    if not path.exists():
        return split
    written = read_split(path)
    if written.hash != split.hash:
        raise RlvoError(
            "the study was split otherwise: its patients or labels have changed since",
            where=path,
            fix="Give the study another name, or use the cohort it was started with",
        )
    return written


def _prepared(
    cohort: Cohort, target: Target, store: VolumeStore, workers: int | None, advance: Callable[[int, int], None]
) -> PreparedCohort:
    rows = {
        patient: {name: cohort.volume(patient, name) for name in ("ncct", "cta", "vessels")}
        for patient in cohort.table.index
    }
    volumes = prepare_cohort(rows, target, store, workers=workers, progress=advance)
    if volumes.refused and not volumes.prepared:
        findings = [Finding(patient, None, str(error)) for patient, error in volumes.refused.items()]
        raise CohortError(findings, where="volumes")
    return volumes.with_sides(cohort.table["occlusion_side"].dropna() if "occlusion_side" in cohort.table else {})


def _check_same_data(inputs: StudyInputs, path: Path) -> None:
    if not path.exists():
        return
    try:
        before = json.loads(path.read_bytes())["data_hash"]
    except ValueError:
        raise RlvoError("damaged", where=path, fix="Put the file back, or give the study another name") from None
    if before != inputs.data_hash:
        raise RlvoError(
            "predictors or volumes of the cohort have changed since the study was started",
            where=inputs.study,
            fix="Give the study another name, or use the cohort it was started with",
        )
