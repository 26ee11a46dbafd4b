"""What helps to learn from few patients: options against the baseline, on synthetic cohorts.

`python -m benchmarks.learning WORK` draws cohorts, trains the demo's networks on their first patients with each option
of training, and combines them in each way of the ensemble. Every ensemble is asked about FRESH further patients of the
same cohort. Options are chosen on some seeds and confirmed on others. It takes hours; run again, it continues, and
`--seeds` lets several processes share the work.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import torch
from sklearn.metrics import roc_auc_score

from rlvo.cohort.reading import read_cohort, volume_paths
from rlvo.config.loading import load_study
from rlvo.config.model import FusionName
from rlvo.config.study import EnsembleConfig, StudyConfig
from rlvo.config.workdir import Workdir
from rlvo.ensemble.build import STUDY_ENSEMBLE, study_ensembles
from rlvo.ensemble.spec import apply_ensemble
from rlvo.ensemble.weighting import Weighting
from rlvo.imaging.cohort_preparation import prepare_cohort
from rlvo.imaging.store import VolumeStore
from rlvo.progress import Advance, no_progress
from rlvo.report.console import print_line, show_progress
from rlvo.study.folder import StudyFolder, read_ended_trials
from rlvo.study.inputs import StudyInputs, open_study
from rlvo.synthetic.cohort import write_synthetic_cohort
from rlvo.training.dataset import Patients, Volumes
from rlvo.training.fit import fit
from rlvo.training.member import load_classifier, predict_probabilities
from rlvo.training.records import BEST_WEIGHTS, CompletionRecord, member_key

DEMO = Path(__file__).parents[1] / "tune_configs" / "demo.yaml"
STUDY, FRESH = 480, 2000
"""Patients of each cohort: the largest study's, and those who are new to every model."""
CHOOSE, CONFIRM = range(101, 106), range(201, 206)
"""Seeds of the cohorts on which options are chosen, and of those on which they are confirmed."""
BASELINE = "baseline"
TRAINING: dict[str, dict[str, str]] = {
    BASELINE: {},
    "canonical": {"model.side": "canonical"},
    "halves": {"model.side": "halves"},
    "mirror_difference": {"model.contrast": "mirror_difference"},
}
"""Options of training: what they change in the demo's study, as dotted paths."""
PAPERS = EnsembleConfig()
WAYS = [
    EnsembleConfig(selection=selection, weighting=weighting, member_scale=scale)
    for selection, weighting, scale in product(("best_per_modality", "greedy"), get_args(Weighting), ("none", "platt"))
]
FUSIONS: dict[str, tuple[FusionName, ...]] = {"image only": ("none",), "multimodal": ("daft",), "all": ("none", "daft")}
"""Which of the members an ensemble is built from, by their fusion."""


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


def train(setting: Setting, work: Path) -> None:
    """Train every configuration on every fold, and ask each about the fresh patients."""
    if setting.fresh(work).exists():
        return
    config, study = setting.config, setting.study(work)
    title = f"{setting.profile} {setting.seed}, {setting.patients} patients, {setting.option}"
    with show_progress(f"{title}: volumes") as advance:
        table, further = _cohort(setting, work, advance)
        at = Workdir(setting.folder(work))
        inputs = open_study(config, table, at, progress=no_progress, workers=1)
        asked = _FreshPatients(further, inputs, VolumeStore(at.store), advance)
    trials, answers = list(product(map(config.configuration, config.combinations()), range(config.folds.folds))), []
    with show_progress(title) as advance:
        for done, (configuration, fold) in enumerate(trials, 1):
            data, own = inputs.fold_data(fold), study.trial(configuration.key, fold)
            identity = inputs.identity(configuration.key, fold)
            record = fit(configuration, data, own, identity, seed=config.seed, device="cpu", threads=1)
            if record is not None and record.status == "finished":
                answers.append(_ask(record, own, asked.of(fold)))
            advance(done, len(trials))
    pd.concat(answers).to_parquet(setting.fresh(work))


def _cohort(setting: Setting, work: Path, advance: Advance) -> tuple[Path, Path]:
    """The study's table and that of the fresh patients; the cohort is drawn if it is not there."""
    whole = setting.folder(work) / "cohort" / "cohort.csv"
    if not whole.exists():
        profile, seed = setting.profile, setting.seed
        write_synthetic_cohort(
            whole.parent, patients=STUDY + FRESH, profile=profile, seed=seed, workers=1, progress=advance
        )
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


def _ask(record: CompletionRecord, folder: Path, fresh: Patients) -> pd.DataFrame:
    model = record.configuration.model
    classifier = load_classifier(folder / BEST_WEIGHTS, model, fresh.tabular.shape[1])
    probability = predict_probabilities(classifier, Volumes(fresh, model.channels), fresh.tabular, 32)
    member = member_key(record.configuration, record.identity.fold)
    return pd.DataFrame({"patient": fresh.ids, "member": member, "probability": probability, "label": fresh.labels})


def measure(setting: Setting, work: Path) -> Iterator[dict[str, Any]]:
    """AUC on the fresh patients, for each way to build an ensemble from each kind of members."""
    trials, fresh = read_ended_trials(setting.study(work)), pd.read_parquet(setting.fresh(work))
    label = fresh.groupby("patient")["label"].first()
    said = {
        str(member): own.set_index("patient")["probability"].loc[label.index].to_numpy()
        for member, own in fresh.groupby("member")
    }
    for kind, fusions in FUSIONS.items():
        records = [record for record in trials.records if record.configuration.model.fusion in fusions]
        members = {member_key(record.configuration, record.identity.fold) for record in records}
        predictions = trials.predictions[trials.predictions["member"].isin(members)]
        for way in WAYS:
            spec = study_ensembles(records, predictions, way)[STUDY_ENSEMBLE]
            name = " ".join((way.selection, way.weighting, way.member_scale))
            auc = roc_auc_score(label, apply_ensemble(spec, said).score)
            facts = {"profile": setting.profile, "patients": setting.patients, "seed": setting.seed}
            yield facts | {
                "option": setting.option,
                "members": kind,
                "way": name,
                "auc": auc,
                "is_papers": way == PAPERS,
            }


def compare(measured: pd.DataFrame) -> pd.DataFrame:
    """Mean AUC, and the paired difference from the baseline of training combined in the paper's way, with its SE."""
    cohort = ["profile", "patients", "seed", "members"]
    papers = (
        measured[measured["is_papers"] & (measured["option"] == BASELINE)].set_index(cohort)["auc"].rename("papers")
    )
    joined = measured.join(papers, on=cohort, how="inner")
    joined = joined.assign(gain=joined["auc"] - joined["papers"])
    groups = joined.groupby(["profile", "patients", "members", "option", "way"], sort=False)
    return groups.agg(cohorts=("auc", "size"), auc=("auc", "mean"), gain=("gain", "mean"), se=("gain", "sem"))


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
    if not chosen.only_show:
        for setting in settings:
            train(setting, chosen.work)
    done = [setting for setting in settings if setting.fresh(chosen.work).exists()]
    measured = pd.DataFrame([row for setting in done for row in measure(setting, chosen.work)])
    for name, seeds in (("chosen on", CHOOSE), ("confirmed on", CONFIRM)):
        if len(own := measured[measured["seed"].isin(seeds)]):
            print_line(f"{name} {own['seed'].nunique()} cohorts, {FRESH} fresh patients each")
            print(compare(own).to_string(float_format="{:.4f}".format))


if __name__ == "__main__":
    main()
