"""Which tabular predictors an ensemble relies on: contributions, permutation importance and Shapley values.

All of it is measured on the validation patients of each fold, whom its members were not trained on; the hold-out stays
closed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from scipy.special import expit

from rlvo.cohort.variables import CTP, PERFUSION
from rlvo.ensemble.build import STUDY_ENSEMBLE
from rlvo.ensemble.fitting import Validation
from rlvo.ensemble.spec import TABLE, BaselineMember, EnsembleSpec, FoldSpec, Member
from rlvo.ensemble.weighting import Weighting
from rlvo.errors import RlvoError
from rlvo.explain.attribution import Contributions, Formula, contributions
from rlvo.explain.fixed_image import FixedImages, FixedLinear
from rlvo.explain.permutation import SHUFFLES, permutation_drops
from rlvo.explain.ranking import VariableImportance, rank_predictors
from rlvo.explain.shapley import shapley_values
from rlvo.models.fusion import DAFT
from rlvo.progress import ShowProgress, no_progress
from rlvo.study.folder import read_declared
from rlvo.study.image_baseline import read_image_models
from rlvo.study.trials import member_weights
from rlvo.training.dataset import Patients, Volumes
from rlvo.training.linear_model import LinearImage
from rlvo.training.member import load_classifier
from rlvo.training.table_model import TableModel
from rlvo.workflows.study import OpenStudy

Reader = FixedImages | FixedLinear | TableModel
"""A member as a function of the table."""
EXPLAINED, BACKGROUND = 40, 20
"""Validation patients per fold whose Shapley values are computed, and training patients they are compared with."""


def variable_importance(
    study: OpenStudy,
    ensemble: str = STUDY_ENSEMBLE,
    *,
    formula: Formula = "mean_of_absolutes",
    shuffles: int = SHUFFLES,
    explained: int = EXPLAINED,
    background: int = BACKGROUND,
    seed: int = 0,
    progress: ShowProgress = no_progress,
) -> VariableImportance:
    """Rank the predictors of one of a study's ensembles.

    Contributions (of each member with DAFT or FiLM, divided by their sum) and Shapley values (logits) are those of the
    members that read the table and have a say, each counted once. The AUC whose loss is measured is that of a fold's
    combined score.

    Args:
        ensemble: its name among those the study declares: `ensemble`, `CTA`, `densenet121 daft`, …
        formula: of the absolute contribution (`explain.attribution.contributions`).
        shuffles: of each predictor in each fold.
        explained: validation patients per fold whose Shapley values are computed, drawn at random.
        background: training patients per fold that the Shapley values compare with, drawn at random.

    Raises:
        RlvoError: no ensemble of this name was built, a trial is missing or altered, or no member that reads the table
            has a say.
    """
    spec = _declared(study, ensemble)
    named = [(fold, member) for fold in spec.folds for member in readers(fold, spec.weighting)]
    if not named:
        what = "no member of this ensemble reads the table and has a say"
        fix = "Name another ensemble of the study, or search with fusion daft, film, concat or offset"
        raise RlvoError(what, where=f"{study.config.name}, {ensemble}", fix=fix)
    validation, linear = Validation.of(study.ended_trials().predictions), read_image_models(study.folder, spec)
    moved: list[Contributions] = []
    drops, values = [], []
    with progress("variable importance") as advance:
        done = 0
        for fold in (fold for fold in spec.folds if readers(fold, spec.weighting)):
            data = _Fold(study, fold, validation.table(fold.fold, spec.contenders), spec.weighting, linear)
            asked = {member.key: data.reader(member) for member in readers(fold, spec.weighting)}
            drops.append(data.drops(asked, shuffles, seed))
            for reader in asked.values():
                if isinstance(reader, FixedImages) and (daft := reader.classifier.modulation) is not None:
                    moved.append(data.contributions(daft, reader, formula))
                values.append(data.shapley(reader, explained, background, seed))
                done += 1
                advance(done, len(named))
    scale, shift, individual, absolute = _mean_shares(moved, study.inputs.predictors)
    losses = pd.concat(drops)
    perfusion = losses.pop(PERFUSION) if PERFUSION in losses else pd.Series(dtype=float)
    return VariableImportance(
        table=rank_predictors(absolute, losses, pd.concat(values)),
        individual=individual,
        scale=scale,
        shift=shift,
        perfusion=(float(perfusion.mean()), float(perfusion.std())),
        members=tuple(member.key for _, member in named),
    )


def _declared(study: OpenStudy, name: str) -> EnsembleSpec:
    declared = read_declared(study.folder)
    if name not in declared:
        fix = f"They are {', '.join(declared)}"
        raise RlvoError(f"the study declares no ensemble '{name}'", where=study.config.name, fix=fix)
    return declared[name]


def readers(fold: FoldSpec, weighting: Weighting) -> list[Member]:
    """The members that read the table and have a say in the fold's score, each once."""
    members = [
        member
        for member in dict.fromkeys(fold.members)
        if (member.reads_table if isinstance(member, BaselineMember) else member.configuration.model.fusion != "none")
    ]
    return [member for member in members if weighting == "mean" or not member.abstains]


@dataclass(frozen=True)
class _Fold:
    """One fold of an ensemble and its validation patients."""

    study: OpenStudy
    spec: FoldSpec
    stored: pd.DataFrame
    """Label and stored probabilities by configuration, index patient."""
    weighting: Weighting
    linear: Mapping[int, LinearImage]
    """The linear models of the volumes by fold, if they are members."""

    @cached_property
    def patients(self) -> Patients:
        encoder = self.study.inputs.encoder(self.spec.fold)
        return self.study.inputs.patients(tuple(self.stored.index), encoder)

    @cached_property
    def groups(self) -> dict[str, tuple[int, ...]]:
        return self.study.inputs.encoder(self.spec.fold).feature_groups

    def reader(self, member: Member) -> Reader:
        """The member's weights, and what it makes of the patients' images if it looks at them."""
        if isinstance(member, BaselineMember):
            if member.origin == TABLE:
                return self.study.inputs.table_model(member.fold)
            of_table, said = self.linear[member.fold].coefficients, self.stored[member.column]
            assert of_table is not None
            return FixedLinear.of(of_table, said, self.patients.tabular)
        model, weights = member.configuration.model, member_weights(self.study.folder, member)
        classifier = load_classifier(weights, model, self.patients.tabular.shape[1])
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return FixedImages.of(classifier.to(device), Volumes(self.patients, model.channels), self.patients.tabular)

    def drops(self, readers: Mapping[str, Reader], shuffles: int, seed: int) -> pd.DataFrame:
        """The AUC that the fold's combined score loses, by predictor and for CT perfusion: one row per shuffle."""
        fixed = {m.key: self.stored[m.column].to_numpy() for m in self.spec.members}

        def score(tabular: np.ndarray) -> np.ndarray:
            asked = {key: expit(reader.logits(tabular)) for key, reader in readers.items()}
            return self.spec.score({**fixed, **asked}, self.weighting)

        label = self.stored["label"].to_numpy()
        seed = seed + self.spec.fold
        perfusion = [column for name in CTP for column in self.groups.get(name, ())]
        groups = {**self.groups, PERFUSION: perfusion} if perfusion else self.groups
        return permutation_drops(label, score, self.patients.tabular, groups, shuffles=shuffles, seed=seed)

    def contributions(self, daft: DAFT, images: FixedImages, formula: Formula) -> Contributions:
        """Those to one member as shares: divided by the sum of the absolute contributions."""
        tabular, ids = self.patients.tabular, self.patients.ids
        return contributions(daft, images.features, tabular, self.groups, formula=formula, patients=ids).shares()

    def shapley(self, reader: Reader, explained: int, background: int, seed: int) -> pd.DataFrame:
        """The Shapley values of some of the patients for one member, [n, P]."""
        random, inputs = np.random.default_rng([seed, self.spec.fold]), self.study.inputs
        training = inputs.table.loc[list(inputs.split.training(self.spec.fold))]
        others = training.iloc[_draw(random, len(training), background)]
        rows = inputs.encoder(self.spec.fold).transform(others)
        chosen = _draw(random, len(self.patients), explained)
        values = []
        for patient in chosen:
            own = reader.logits if isinstance(reader, TableModel) else reader.of_one(patient)
            values.append(shapley_values(own, self.patients.tabular[patient], rows, self.groups, seed=seed))
        return pd.DataFrame(values, columns=list(self.groups))


def _mean_shares(
    members: Sequence[Contributions], predictors: Sequence[str]
) -> tuple[pd.Series, pd.Series, pd.DataFrame, pd.Series]:
    """Means over members: through scale and shift, by patient, and absolute; NaN if there is no member."""
    if not members:
        nothing = pd.Series(np.nan, index=list(predictors))
        return nothing, nothing, pd.DataFrame(columns=list(predictors), dtype=float), nothing
    patients = pd.concat([member.individual for member in members])
    scale, shift, absolute = (
        pd.DataFrame(each).mean()
        for each in zip(*((m.scale.mean(), m.shift.mean(), m.absolute) for m in members), strict=True)
    )
    return scale, shift, patients.groupby(level=0).mean(), absolute


def _draw(random: np.random.Generator, available: int, wanted: int) -> np.ndarray:
    return np.sort(random.choice(available, min(available, wanted), replace=False))
