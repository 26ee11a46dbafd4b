"""What helps to learn from few patients: options against the baseline, on synthetic cohorts.

`python -m benchmarks.learning WORK` draws cohorts, trains the demo's networks on their first patients with each option
of training, and combines them in each way of the ensemble. Every ensemble is asked about FRESH further patients of the
same cohort. Options are chosen on some seeds and confirmed on others. It takes hours; run again, it continues, and
`--seeds` lets several processes share the work. The profile `paper` is drawn on the grid `arteries`, where its images
can be read; the others on the demo's. `pretrained` pretrains a network first, once per profile: let one process do that
before others share its rows. What was measured stays in learning.csv beside this file, one row per cohort,
number of patients and option: a row that is there is not measured again.
"""

from __future__ import annotations

import argparse
import fcntl
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score

from rlvo.cohort.reading import read_cohort, volume_paths
from rlvo.config.grid import PRESETS
from rlvo.config.loading import load_study
from rlvo.config.model import Modality
from rlvo.config.pretrained import PretrainedOptions
from rlvo.config.sections import EnsembleConfig
from rlvo.config.study import StudyConfig
from rlvo.config.workdir import Workdir
from rlvo.ensemble.build import STUDY_ENSEMBLE, study_ensembles
from rlvo.ensemble.comparison import every_way
from rlvo.ensemble.spec import apply_ensemble
from rlvo.files import file_sha256, read_csv
from rlvo.imaging.cohort_preparation import prepare_cohort
from rlvo.imaging.store import VolumeStore
from rlvo.progress import Advance, no_progress
from rlvo.report.console import print_line, show_progress
from rlvo.study.folder import StudyFolder
from rlvo.study.image_baseline import fit_image_baselines, image_predictions
from rlvo.study.inputs import StudyInputs, open_study
from rlvo.study.trials import read_ended_trials
from rlvo.synthetic.cohort import write_synthetic_cohort
from rlvo.training.dataset import Patients, Volumes
from rlvo.training.fit import fit
from rlvo.training.linear_image import fit_linear_images, read_blocks
from rlvo.training.member import load_classifier, predict_probabilities
from rlvo.training.records import BEST_WEIGHTS, CompletionRecord, linear_member_key, member_key
from rlvo.training.table_model import NAME, table_member_key
from rlvo.workflows.pretrain import pretrain

DEMO = Path(__file__).parents[1] / "tune_configs" / "demo.yaml"
STUDY, FRESH = 480, 2000
"""Patients of each cohort: the largest study's, and those who are new to every model."""
CHOOSE, CONFIRM = range(101, 106), range(201, 206)
"""Seeds of the cohorts on which options are chosen, and of those on which they are confirmed."""
BASELINE, PRETRAINED, LINEAR = "baseline", "pretrained", "linear image"
MEASURED = Path(__file__).with_suffix(".csv")
OFFSET = {"space.enumerate": {"model.modality": get_args(Modality), "model.fusion": ("none", "offset")}}
TRAINING: dict[str, dict[str, Any]] = {
    BASELINE: {},
    "canonical": {"model.side": "canonical"},
    "halves": {"model.side": "halves"},
    "mirror_difference": {"model.contrast": "mirror_difference"},
    "ema": {"training.ema": 0.98},
    "checkpoint_auc": {"training.checkpoint": "auc"},
    "checkpoint_last": {"training.checkpoint": "last"},
    "label_smoothing": {"training.label_smoothing": 0.1},
    "group_norm": {"model.norm": "group"},
    "offset": OFFSET,
    "halves_offset": {"model.side": "halves", **OFFSET},
    "auxiliary": {"training.auxiliary": 0.5},
    "beside_table": {"training.beside_table": True},
    "canonical_beside_table": {"model.side": "canonical", "training.beside_table": True},
    "crop": {"model.crop": "occlusion", "model.side": "canonical"},
    "crop_halves": {"model.crop": "occlusion", "model.side": "halves"},
    PRETRAINED: {},
}
"""Options of training: what they change in the demo's study, as dotted paths."""
UNLABELLED, UNLABELLED_SEED, PRETRAINING_EPOCHS = 2000, 301, 60
"""For `pretrained`, networks learn first from this many patients of a further cohort, without their outcomes."""
GRIDS = {"paper": PRESETS["arteries"]}
"""Where a profile's images are read, if not on the demo's grid."""
PAPERS = EnsembleConfig()
LINEAR_WAYS = [
    EnsembleConfig(selection="greedy", weighting="stacked", linear_image="alone"),
    EnsembleConfig(selection="greedy", weighting="stacked", linear_image="with_table"),
]
WAYS = [
    *(way for way in every_way(PAPERS) if way.selection != "same_spec" and way.linear_image == "none"),
    *LINEAR_WAYS,
]
FACTS = ["profile", "patients", "seed", "option"]
"""What a row of learning.csv is about."""


@dataclass(frozen=True)
class Setting:
    """A cohort, how many of its patients the study has, and how it is trained."""

    profile: str
    patients: int
    seed: int
    option: str

    @property
    def config(self) -> StudyConfig:
        """The demo's study with the option, on folds of this seed."""
        config = load_study(DEMO).with_setting("name", f"{self.option}-{self.patients}")
        if self.profile in GRIDS:
            config = config.with_setting("grid", GRIDS[self.profile])
        changes = {"seed": self.seed, "folds.seed": self.seed, **TRAINING[self.option]}
        for path, value in changes.items():
            config = config.with_setting(path, value)
        return config

    def folder(self, work: Path) -> Path:
        """Where the cohort, and all that is trained on it, lies."""
        return work / f"{self.profile}-{self.seed}"

    def study(self, work: Path) -> StudyFolder:
        """The study's folder."""
        return StudyFolder(Workdir(self.folder(work)).study(self.config.name))

    def fresh(self, work: Path) -> Path:
        """What each member says about the fresh patients: `patient`, `member`, `probability`, `label`."""
        return self.study(work).path / "fresh.parquet"


def train(setting: Setting, work: Path) -> tuple[float, pd.DataFrame]:
    """Train every configuration on every fold, and ask each about the fresh patients.

    Returns:
        The processor's seconds, of an interrupted training those since it went on; and what the linear models say of
        their validation patients.
    """
    config, study = setting.config, setting.study(work)
    weights = _pretrained(setting, work) if setting.option == PRETRAINED else None
    if weights is not None:
        config = config.with_setting("model.pretrained", PretrainedOptions(sha256=file_sha256(weights)))
    title = f"{setting.profile} {setting.seed}, {setting.patients} patients, {setting.option}"
    with show_progress(f"{title}: volumes") as advance:
        table, further = _cohort(setting, work, advance)
        at = Workdir(setting.folder(work))
        inputs = open_study(config, table, at, progress=no_progress, workers=1)
        asked = _FreshPatients(further, inputs, VolumeStore(at.store), advance)
    started = time.process_time()
    trials, answers = list(product(map(config.configuration, config.combinations()), range(config.folds.folds))), []
    with show_progress(title) as advance:
        for done, (configuration, fold) in enumerate(trials, 1):
            data, own = inputs.fold_data(fold), study.trial(configuration.key, fold)
            identity = inputs.identity(configuration.key, fold)
            record = fit(
                configuration, data, own, identity, seed=config.seed, device="cpu", threads=1, pretrained=weights
            )
            if record is not None and record.status == "finished":
                answers.append(_ask(record, own, asked.of(fold)))
            advance(done, len(trials))
    answers += _ask_baselines(inputs, asked)
    pd.concat(answers).to_parquet(setting.fresh(work))
    seconds = time.process_time() - started
    fit_image_baselines(study, inputs, config.grid, no_progress)
    return seconds, pd.concat([inputs.table_predictions(), image_predictions(study, inputs.label)])


def _pretrained(setting: Setting, work: Path) -> Path:
    """Weights from which the profile's networks start; one is pretrained if they are not there."""
    apart = replace(setting, seed=UNLABELLED_SEED)
    weights = apart.folder(work) / "pretrained.safetensors"
    if not weights.exists():
        with show_progress(f"{setting.profile}, without outcome: volumes") as advance:
            table = _draw(apart, UNLABELLED, work, advance)
        at = Workdir(apart.folder(work))
        pretrain(apart.config, table, at, weights, epochs=PRETRAINING_EPOCHS, progress=show_progress, tell=print_line)
    return weights


def _draw(setting: Setting, patients: int, work: Path, advance: Advance) -> Path:
    """The table of the setting's cohort, which is drawn if it is not there."""
    table = setting.folder(work) / "cohort" / "cohort.csv"
    if not table.exists():
        write_synthetic_cohort(
            table.parent,
            patients=patients,
            profile=setting.profile,
            seed=setting.seed,
            grid=setting.config.grid,
            workers=1,
            progress=advance,
        )
    return table


def _cohort(setting: Setting, work: Path, advance: Advance) -> tuple[Path, Path]:
    """The study's table and that of the fresh patients."""
    whole = _draw(setting, STUDY + FRESH, work, advance)
    cells = pd.read_csv(whole, dtype=str)
    table, fresh = whole.with_name(f"first-{setting.patients}.csv"), whole.with_name("fresh.csv")
    cells[: setting.patients].to_csv(table, index=False)
    cells[STUDY:].to_csv(fresh, index=False)
    return table, fresh


class _FreshPatients:
    """Patients whom no model has seen, encoded as each fold encodes."""

    def __init__(self, table: Path, inputs: StudyInputs, store: VolumeStore, advance: Advance) -> None:
        self._inputs, cohort = inputs, read_cohort(table, inputs.predictors)
        files = volume_paths(cohort.included, cohort.folder)
        prepared = prepare_cohort(files, inputs.target, store, workers=1, progress=advance).prepared
        self._ids = tuple(prepared)
        self._rows, self._labels = cohort.included.loc[list(prepared)], cohort.label.loc[list(prepared)]
        self._volumes = tuple(store.folder(each.address) for each in prepared.values())

    def of(self, fold: int) -> Patients:
        tabular = self._inputs.encoder(fold).transform(self._rows)
        return Patients(self._ids, self._volumes, tabular, self._labels.to_numpy(copy=True))

    @property
    def is_right(self) -> pd.Series:
        return self._rows["occlusion_side"] == "right"


def _ask(record: CompletionRecord, folder: Path, fresh: Patients) -> pd.DataFrame:
    model = record.configuration.model
    classifier = load_classifier(folder / BEST_WEIGHTS, model, fresh.tabular.shape[1])
    probability = predict_probabilities(classifier, Volumes(fresh, model.channels), fresh.tabular, 32)
    return _answers(member_key(record.configuration, record.identity.fold), fresh, probability)


def _ask_baselines(inputs: StudyInputs, asked: _FreshPatients) -> list[pd.DataFrame]:
    """What needs no network: the ridge model of the table, and the linear model of the volumes without and with it."""
    answers, spacing = [], inputs.target.grid.spacing
    fresh_blocks = read_blocks(asked.of(0), spacing, asked.is_right)
    for fold in range(len(inputs.split.folds)):
        fresh, known = asked.of(fold), inputs.patients(inputs.split.training(fold), inputs.encoder(fold))
        is_right = inputs.table.loc[list(known.ids), "occlusion_side"] == "right"
        blocks = read_blocks(known, spacing, is_right)
        alone, joint = fit_linear_images(blocks, known.labels, known.tabular)
        answers += [
            _answers(table_member_key(fold), fresh, inputs.table_model(fold).predict(fresh.tabular)),
            _answers(linear_member_key(fold, with_table=False), fresh, alone.predict(fresh_blocks)),
            _answers(linear_member_key(fold, with_table=True), fresh, joint.predict(fresh_blocks, fresh.tabular)),
        ]
    return answers


def _answers(member: str, fresh: Patients, probability: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"patient": fresh.ids, "member": member, "probability": probability, "label": fresh.labels})


def measure(setting: Setting, work: Path, table: pd.DataFrame) -> dict[str, float]:
    """AUC on the fresh patients, for each way to build an ensemble from each kind of members: `members, way`.

    Args:
        table: what the linear models say of their validation patients.
    """
    trials, fresh = read_ended_trials(setting.study(work)), pd.read_parquet(setting.fresh(work))
    label = fresh.groupby("patient")["label"].first()
    said = {
        str(member): own.set_index("patient")["probability"].loc[label.index].to_numpy()
        for member, own in fresh.groupby("member")
    }
    images = [record for record in trials.records if record.configuration.model.fusion == "none"]
    fused = [record for record in trials.records if record.configuration.model.fusion != "none"]
    measured = {}
    for name, key in {NAME: NAME, LINEAR: "linear-image", f"{LINEAR} + table": "linear-image-table"}.items():
        folds = [probability for member, probability in said.items() if member.rpartition("-f")[0] == key]
        measured[f"all, no network: {name}"] = float(roc_auc_score(label, np.mean(folds, axis=0)))
    for kind, records in {"image only": images, "multimodal": fused, "all": [*images, *fused]}.items():
        members = {member_key(record.configuration, record.identity.fold) for record in records}
        predictions = pd.concat([trials.predictions[trials.predictions["member"].isin(members)], table])
        for way in WAYS:
            spec = study_ensembles(records, predictions, way)[STUDY_ENSEMBLE]
            measured[f"{kind}, {way_name(way)}"] = float(roc_auc_score(label, apply_ensemble(spec, said).score))
    return measured


def way_name(way: EnsembleConfig) -> str:
    """How members are chosen and combined, in words of the study file."""
    scale, table = way.member_scale != "none", way.table_member != "none"
    linear = {"none": (), "alone": ("+ linear image",), "with_table": ("+ linear image + table",)}[way.linear_image]
    others = (*(("platt",) if scale else ()), *(("+ table",) if table else ()), *linear)
    return " ".join((way.selection, way.weighting, *others))


def read_measured() -> pd.DataFrame:
    """The rows of learning.csv."""
    if not MEASURED.exists() or not MEASURED.stat().st_size:
        return pd.DataFrame(columns=FACTS)
    return read_csv(MEASURED, {"profile": "str", "option": "str"})  # to pandas `null`, a profile, is a missing value


def keep(setting: Setting, seconds: float, measured: Mapping[str, float]) -> None:
    """Add a row to learning.csv, which other processes may be writing too."""
    row = {name: getattr(setting, name) for name in FACTS} | {"cpu_seconds": round(seconds)} | measured
    with MEASURED.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        rows = pd.concat([read_measured(), pd.DataFrame([row])]).drop_duplicates(FACTS, keep="last")
        rows.sort_values(FACTS).to_csv(MEASURED, index=False, float_format="%.4f")


def compare(measured: pd.DataFrame) -> pd.DataFrame:
    """Mean AUC, and the paired difference from the baseline of training combined in the paper's way, with its SE."""
    ways = [name for name in measured if ", " in name]
    each = measured.melt(FACTS, ways, "way", "auc").dropna(subset="auc")
    each[["members", "way"]] = each["way"].str.split(", ", expand=True)
    cohort = ["profile", "patients", "seed", "members"]
    is_papers = (each["option"] == BASELINE) & (each["way"] == way_name(PAPERS))
    joined = each.join(each[is_papers].set_index(cohort)["auc"].rename("papers"), on=cohort, how="inner")
    joined = joined.assign(gain=joined["auc"] - joined["papers"])
    groups = joined.groupby(["profile", "patients", "members", "option", "way"], sort=False)
    return groups.agg(cohorts=("auc", "size"), auc=("auc", "mean"), gain=("gain", "mean"), se=("gain", "sem"))


def cost(measured: pd.DataFrame) -> pd.DataFrame:
    """The processor's seconds that training took, and as a share of the baseline's on the same cohorts."""
    cohort = ["profile", "patients", "seed"]
    baseline = measured[measured["option"] == BASELINE].set_index(cohort)["cpu_seconds"].rename("baseline")
    joined = measured[[*FACTS, "cpu_seconds"]].join(baseline, on=cohort)
    joined["share"] = joined["cpu_seconds"] / joined["baseline"]
    groups = joined.groupby(["profile", "patients", "option"], sort=False)
    return groups.agg(cpu_seconds=("cpu_seconds", "mean"), share=("share", "mean"))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="What helps to learn from few patients.")
    parser.add_argument("work", type=Path, help="work folder to make, or to go on in")
    parser.add_argument("--profiles", nargs="+", default=["demo"])
    parser.add_argument("--patients", nargs="+", type=int, default=[240, STUDY])
    parser.add_argument("--seeds", nargs="+", type=int, default=[*CHOOSE, *CONFIRM])
    parser.add_argument("--options", nargs="+", default=list(TRAINING), choices=list(TRAINING))
    parser.add_argument("--only-show", action="store_true", help="train nothing")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    settings = [
        Setting(profile, patients, seed, option)
        for profile, seed, patients, option in product(chosen.profiles, chosen.seeds, chosen.patients, chosen.options)
    ]
    measured = read_measured().set_index(FACTS).index
    for setting in settings if not chosen.only_show else ():
        if (setting.profile, setting.patients, setting.seed, setting.option) not in measured:
            seconds, table = train(setting, chosen.work)
            keep(setting, seconds, measure(setting, chosen.work, table))
    rows = read_measured()
    for name, seeds in (("chosen on", CHOOSE), ("confirmed on", CONFIRM)):
        if len(own := rows[rows["seed"].isin(seeds)]):
            print_line(f"{name} {own['seed'].nunique()} cohorts, {FRESH} fresh patients each")
            print(compare(own).to_string(float_format="{:.4f}".format))
    print_line("what training costs")
    print(cost(rows).to_string(float_format="{:.2f}".format))


if __name__ == "__main__":
    main()
