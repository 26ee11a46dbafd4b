"""Pretraining an image network for a study on volumes without outcome, of patients whom no study has."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from rlvo.cohort.reading import volume_paths
from rlvo.cohort.variables import VARIABLES
from rlvo.config.base import content_hash
from rlvo.config.model import Configuration, Modality, ModelConfig
from rlvo.config.pretrained import RANDOM
from rlvo.config.study import StudyConfig
from rlvo.config.workdir import Workdir
from rlvo.errors import MachineError, RlvoError
from rlvo.files import atomic_write, check_writable, writing
from rlvo.imaging.alignment.atlas import brain_mask, head_mask
from rlvo.imaging.cohort_preparation import prepare_cohort
from rlvo.imaging.store import VolumeStore
from rlvo.imaging.target import Target
from rlvo.models.crop import check_seen
from rlvo.models.pretrained import Match, match
from rlvo.progress import ShowProgress, no_progress
from rlvo.report.pretraining import draw_pretraining
from rlvo.study.folder import StudyFolder, started_studies
from rlvo.study.inputs import settle
from rlvo.study.specs import model_specs
from rlvo.study.unlabelled import OwnTable, hold_back, own_tables
from rlvo.training.epoch import smallest_part
from rlvo.training.pretraining import EXAMPLE, Pretraining, Unlabelled, encoder_file, kept_sha256
from rlvo.training.records import EpochMetrics, read_epochs
from rlvo.training.shortage import read_retries
from rlvo.workflows.cohort import read_volumes_table
from rlvo.workflows.study import tracking_of

READ = tuple(name for name, variable in VARIABLES.items() if variable.role in ("id", "image", "predictor"))
"""Columns that are read: scans, and what a patient of a study is recognised by. Outcomes are none of them."""
FEWEST = 10
"""Volumes without which there is nothing to learn: nine, and one that is held back."""
LABELS = {"auxiliary": 0.0, "label_smoothing": 0.0, "pos_weight": False, "ema": None, "checkpoint": "loss", "repeat": 0,
          "restarts": 0, "beside_table": False, "modality_dropout": 0.0, "perfusion_dropout": 0.0}  # fmt: skip
"""Settings of training that play no part."""
VERSION = 1
"""Of the task: with another one, the same settings give other weights."""


@dataclass(frozen=True, eq=False)
class Pretrained:
    """An image network that was pretrained, and how well it does."""

    sha256: str
    """Of the file that was written."""
    match: Match
    """How its tensors fit the network they are for."""
    model: ModelConfig
    epochs: Sequence[EpochMetrics]
    training: int
    """Volumes (patients) that it was trained on."""
    held_back: int
    picture: Path
    """Its curve, and a slice of a patient's head; in the work folder."""
    notes: tuple[str, ...]
    """Who was left out and why, and what went wrong without consequence."""

    @property
    def best(self) -> tuple[int, EpochMetrics]:
        """The epoch that was kept, from 1, and its metrics."""
        return min(enumerate(self.epochs, start=1), key=lambda each: each[1]["val/loss"])


def pretrain(
    config: StudyConfig,
    table: Path,
    work: Workdir,
    out: Path,
    *,
    cohort: Path | None = None,
    modality: Modality | None = None,
    epochs: int | None = None,
    mapping: Mapping[str, str] | None = None,
    address: str | None = None,
    progress: ShowProgress = no_progress,
    tell: Callable[[str], None] = lambda line: None,
) -> Pretrained:
    """Pretrain the image network of a study on the volumes of a table; run again after an interruption, it continues.

    Outcomes are not read. Patients of the study, and of every study of the work folder, are left out, whatever their
    ids are in the table.

    Args:
        table: names NCCT or CTA of patients; what the study's own table calls its columns holds here too.
        out: file to write (safetensors), which `model.pretrained` can name.
        cohort: the study's own table; None: the configuration's.
        modality: which of the study's networks; None: the one that fits most of them (`network`).
        epochs: None: the study's.
        mapping: our column names to the table's, where they are not those of the study.
        address: Ray cluster; None: `RAY_ADDRESS`, or else this machine.
        progress: shows how far the preparation of volumes is, and how many epochs have ended.
        tell: told the notes, line by line, as they come.

    Raises:
        RlvoError: the table is at fault, too few of its patients are left, the network is too small for the volumes, or
            the loss is not finite; or another pretraining of the same weights is at work.
        MachineError: the machine cannot train it.
    """
    out = out.expanduser()
    check_writable(out)
    notes = list[str]()

    def note(line: str) -> None:
        notes.append(line)
        tell(line)

    if cohort is not None:
        config = config.with_setting("cohort.table", cohort.expanduser().resolve())
    config = settle(config, StudyFolder(work.study(config.name)))
    configuration = network(config, modality, epochs)
    model, settings = configuration.model, configuration.training
    known = own_tables(config, started_studies(work.studies))
    if not any(each.study in (config.name, config.folds.of_study) for each in known):
        note("the study's own table is not known (--cohort): a search will refuse weights that have seen its patients")

    rows, remarks = read_volumes_table(table, (*READ, "person"), {**config.cohort.columns, **(mapping or {})})
    for remark in remarks:
        note(f"note: {remark}")
    rows = _without_known(rows, known, note)
    files = volume_paths(rows, table.expanduser().resolve().parent)
    store, target = VolumeStore(work.store), Target(grid=config.grid, atlas=config.atlas)
    seen = frozenset[str]()
    for each in known:
        scans, unknown = each.scans(store, target)
        seen |= scans
        if unknown:
            note(unknown)
    with progress("preparing volumes") as advance:
        prepared = prepare_cohort(files, target, store, progress=advance)
    for error in prepared.refused.values():
        note(str(error))
    addresses, learnt = _usable(
        {patient: each.address for patient, each in prepared.prepared.items()}, files, model, store, seen, note
    )
    if len(addresses) < FEWEST:
        what = f"{len(addresses) or 'no'} patients are left to learn from"
        raise RlvoError(what, where=table, fix=f"It takes {FEWEST}, whom no study has")
    person = rows["person"] if "person" in rows else pd.Series(pd.NA, index=rows.index, dtype="str")
    person = person.fillna(rows.index.to_series())
    held_back = hold_back(addresses, {str(patient): str(whose) for patient, whose in person.items()}, config.seed)
    data = Unlabelled(
        training=_folders(store, [a for patient, a in addresses.items() if patient not in held_back]),
        held_back=_folders(store, [addresses[patient] for patient in held_back]),
        brain_mask=brain_mask(config.grid),
        head=head_mask(config.grid),
        grid=config.grid,
    )
    check_seen(model, config.grid.shape, config.grid, smallest_part(len(data.training), settings))
    volumes = [[path.name for path in part] for part in (data.training, data.held_back)]
    key = content_hash([VERSION, configuration.model_dump(mode="json"), config.seed, volumes])
    folder = work.pretraining(f"{config.name}-{key[:12]}")
    folder.mkdir(parents=True, exist_ok=True)
    note(f"{configuration.model.backbone}, {model.modality}: {len(data.training)} patients train it, "
         f"{len(data.held_back)} more are held back to measure how good it is")  # fmt: skip

    from rlvo.search.pretraining import run_pretraining  # Ray

    with progress("epochs") as advance:
        job = Pretraining(key, configuration, config.seed, config.resources)
        failures = config.search.max_failures
        run_pretraining(job, data, folder, max_failures=failures, address=address, progress=advance)
    for retry in read_retries(folder):
        note(f"out of memory: from epoch {retry.epoch} on, at most {retry.micro_batch} patients were computed at once")
    content = encoder_file(folder, kept_sha256(folder), [*learnt])
    shapes = _shapes(content)
    curve = [{name: value for name, value in epoch.items() if name != "epoch"} for epoch in read_epochs(folder)]
    draw_pretraining(curve, folder / EXAMPLE, folder / "picture.png")
    made = Pretrained(
        sha256=hashlib.sha256(content).hexdigest(),
        match=match(model, shapes, "the pretrained network"),
        model=model,
        epochs=curve,
        training=len(data.training),
        held_back=len(data.held_back),
        picture=folder / "picture.png",
        notes=(),
    )
    with writing(out):
        atomic_write(out, content)
    try:
        _log(made, config, key, work)
    except MachineError as error:
        note(f"warning: MLflow lacks the curve, and gets it if the command is run again: {error}")
    return replace(made, notes=tuple(notes))


def network(config: StudyConfig, modality: Modality | None = None, epochs: int | None = None) -> Configuration:
    """The study's network that is pretrained, as far as it has a part in it.

    Of the study's first backbone, it is the first that takes the fewest channels: its weights fit the others too,
    because a first kernel of one volume is repeated for several.

    Args:
        modality: only networks of it.
        epochs: None: the study's.

    Raises:
        RlvoError: the study has no network of this modality.
    """
    specs = [each for each in model_specs(config) if modality in (None, each.model.modality)]
    if not specs:
        raise RlvoError(f"the study has no network of modality {modality}", where=config.name)
    alike = [each for each in specs if each.model.backbone == specs[0].model.backbone]
    chosen = min(alike, key=lambda each: each.model.input_channels)
    training = {**LABELS, **({} if epochs is None else {"epochs": epochs})}
    return Configuration(
        model=chosen.model.model_copy(update={"fusion": "none", "dropout": 0.0, "pretrained": RANDOM}),
        training=chosen.training.model_copy(update=training),
    )


def _without_known(rows: pd.DataFrame, known: Sequence[OwnTable], tell: Callable[[str], None]) -> pd.DataFrame:
    for each in known:
        if theirs := each.patients(rows):
            tell(f"left out: {len(theirs)} patients of study {each.study}")
            rows = rows[~rows.index.isin(theirs)]
    return rows


def _usable(
    addresses: Mapping[str, str],
    files: Mapping[str, Mapping[str, Path | None]],
    model: ModelConfig,
    store: VolumeStore,
    known: frozenset[str],
    tell: Callable[[str], None],
) -> tuple[dict[str, str], frozenset[str]]:
    """The patients whose scans neither a study nor another row has and who have what the network sees; their scans."""
    kept, seen, left_out = dict[str, str](), set[str](), dict[str, int]()
    for patient, address in addresses.items():
        scans = store.scans(files[patient], address)
        if lacking := [name for name in model.channels if not (store.folder(address) / f"{name}.npy").exists()]:
            why = f"without {lacking[0]}"
        elif scans & known:
            why = "whose scans belong to a patient of a study, under another id"
        elif scans & seen:
            why = "whose scans another row names too"
        else:
            kept[patient] = address
            seen |= scans
            continue
        left_out[why] = left_out.get(why, 0) + 1
    for why, count in left_out.items():
        tell(f"left out: {count} patients {why}")
    return kept, frozenset(seen)


def _folders(store: VolumeStore, addresses: Sequence[str]) -> tuple[Path, ...]:
    """In an order that the table has no part in."""
    return tuple(store.folder(address) for address in sorted(addresses))


def _shapes(content: bytes) -> dict[str, tuple[int, ...]]:
    import safetensors.torch

    return {name: tuple(tensor.shape) for name, tensor in safetensors.torch.load(content).items()}


def _log(made: Pretrained, config: StudyConfig, key: str, work: Workdir) -> None:
    from rlvo.tracking.pretraining import log_pretraining  # MLflow

    model = made.model
    params = {
        "backbone": model.backbone,
        "modality": model.modality,
        "prior": model.prior,
        "side": model.side,
        "contrast": model.contrast,
        "crop": model.crop,
        "epochs": len(made.epochs),
        "patients": made.training,
        "held_back": made.held_back,
        "seed": config.seed,
        "sha256": made.sha256,
    }
    name = " ".join([model.backbone, model.modality, *model.inputs])
    log_pretraining(tracking_of(work, config), config.name, key=key, name=name, params=params, epochs=made.epochs)
