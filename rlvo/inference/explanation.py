"""Why a model answers as it does for one patient: made by the model's own code, read by whoever asked.

```
explanation.json     the answer, votes, table values, checks of the maps (`Facts`)
arrays.npz           `volume.<name>`: prepared volumes; `map.<networks>.<before|after>`: saliency maps, [x, y, z]
```

The two may be different versions of rlvo: add to these files, and rename nothing in them.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pydantic import TypeAdapter

from rlvo.config.grid import Grid
from rlvo.config.model import Modality
from rlvo.config.predictors import OwnPredictor
from rlvo.ensemble.spec import TABLE, MemberSpec, baseline_key, fold_margins
from rlvo.errors import RlvoError
from rlvo.explain.faithfulness import Faithfulness
from rlvo.explain.fixed_image import FixedImages
from rlvo.explain.gradcam import MeanMaps, Which
from rlvo.imaging.store import VolumeStore
from rlvo.inference.description import Variant
from rlvo.inference.members import blank_absent
from rlvo.inference.patients import NOT_ANSWERED
from rlvo.inference.predictor import EnsemblePredictor, shape_answers
from rlvo.inference.saliency import Group, Saliency, check_steps, explain, patient_views
from rlvo.inference.table_values import TableValue, table_game, table_values
from rlvo.progress import Advance
from rlvo.training.dataset import stack_channels

FACTS, ARRAYS = "explanation.json", "arrays.npz"


@dataclass(frozen=True)
class Vote:
    """What one fold's networks say, and its vote."""

    fold: int
    probabilities: dict[Modality, tuple[float, ...]]
    """Of the fold's networks, by modality."""
    abstaining: int
    """Members without a say, because they are no better than chance."""
    score: float
    """The members' combined score; the fold votes for rLVO if it is at least the threshold."""
    threshold: float
    table: float | None = None
    """Probability of the fold's model of the table, if it has one; likewise of the linear model of the volumes."""
    linear_image: float | None = None


@dataclass(frozen=True)
class Facts:
    """All of an explanation but its images."""

    answer: dict[str, Any]
    """The row that `predict` gives for the patient."""
    ensemble: str
    """The name of the variant that answered, e.g. "without CTA"."""
    split_hash: str
    """Of the split of the study that the ensemble comes from."""
    votes: tuple[Vote, ...]
    grid: Grid
    """Of volumes and maps."""
    silent: dict[Group, dict[Which, int]]
    """How many networks' maps are all zero."""
    networks: dict[Group, int]
    patients: int | None = None
    """How many training patients there were, and the share of them with rLVO; None if the model does not say."""
    prevalence: float | None = None
    typical_score: float | None = None
    """The score with these images and typical table values; None if no member reads the table."""
    values: tuple[TableValue, ...] = ()
    own: tuple[OwnPredictor, ...] = ()
    """The declarations of predictors that rlvo does not know."""
    checks: dict[Which, Faithfulness] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Explanation:
    """The answer for one patient, and why."""

    facts: Facts
    saliency: Saliency
    volumes: Mapping[str, np.ndarray]
    """The patient's prepared volumes by name, on the grid."""

    def write(self, folder: Path) -> None:
        """Write it to a folder, for `read`."""
        (folder / FACTS).write_text(json.dumps(_FACTS.dump_python(self.facts)))
        maps = {
            f"map.{group}.{which}": mean.of(which)
            for group, mean in self.saliency.maps.items()
            for which in mean.silent
        }
        volumes = {f"volume.{name}": volume for name, volume in self.volumes.items()}
        np.savez(folder / ARRAYS, **volumes, **maps)  # type: ignore[arg-type]

    @classmethod
    def read(cls, folder: Path) -> "Explanation":
        """Read what `write` wrote, in this or another version."""
        facts = _FACTS.validate_python(json.loads((folder / FACTS).read_text()))
        with np.load(folder / ARRAYS) as arrays:
            maps = {
                group: MeanMaps(
                    arrays[f"map.{group}.before"], arrays[f"map.{group}.after"], silent, facts.networks[group]
                )
                for group, silent in facts.silent.items()
            }
            names = [name for name in arrays.files if name.startswith("volume.")]
            volumes = {name.removeprefix("volume."): arrays[name] for name in names}
        return cls(facts, Saliency(maps, facts.checks), volumes)


_FACTS = TypeAdapter(Facts)


def explain_answer(
    predictor: EnsemblePredictor,
    table: pd.DataFrame,
    folder: Path,
    *,
    store: VolumeStore | None = None,
    check: bool = True,
    seed: int = 0,
    progress: Advance | None = None,
) -> Explanation:
    """Answer for the one patient of a table as `predict` does, and explain the answer.

    Args:
        table, folder, store: as for `EnsemblePredictor.predict`.
        check: whether to check the maps too, which asks every network about 400 times.
        seed: of the checks and of the orders in which predictors are taken.
        progress: called as it proceeds.

    Raises:
        RlvoError: the patient cannot be scored.
        MachineError: the machine is at fault, not the patient.
    """
    [patient] = predictor.patients(table, folder, store)
    variant, asked = predictor.ask(patient)
    answer = shape_answers(variant.spec, [asked], predictor.description.notice)
    if patient.volumes is None or answer["rlvo"].isna().any():
        reason = str(answer["warnings"].iloc[0]).rpartition(NOT_ANSWERED)[2]
        raise RlvoError(f"{NOT_ANSWERED}{reason}", where=f"patient {patient.id}")
    networks, named = predictor.members, predictor.named_members(variant)
    views = patient_views(networks, named, variant, patient)
    advance = _counter(progress, 2 + check_steps(views) * check)
    advance()
    saliency = explain(views, check=check, seed=seed, advance=advance)
    names = {member: name for name, member in named.items()}
    volumes = patient.volumes

    def image(member: MemberSpec) -> FixedImages:
        table = variant.encoders[member.fold].transform(patient.row)
        stacked = torch.from_numpy(stack_channels(volumes, member.configuration.model.channels, member.absent))
        classifier = networks.classifier(names[member], member, table.shape[1])
        return FixedImages.of(classifier, blank_absent(stacked[None], classifier, member), table)

    typical_score: float | None = None
    values: tuple[TableValue, ...] = ()
    if variant.reads_table:
        game = table_game(variant, patient.row, asked.probabilities, image)
        typical_score, values = table_values(game, patient.row, predictor.description.cohort, seed=seed)
    advance()
    summary = predictor.description.cohort
    facts = Facts(
        answer={str(name): cell for name, cell in answer.astype(object).where(answer.notna(), None).iloc[0].items()},
        ensemble=variant.name,
        split_hash=variant.spec.split_hash,
        votes=_votes(variant, asked.probabilities),
        grid=predictor.description.target.grid,
        silent={group: maps.silent for group, maps in saliency.maps.items()},
        networks={group: maps.networks for group, maps in saliency.maps.items()},
        patients=summary.patients if summary else None,
        prevalence=summary.prevalence if summary else None,
        typical_score=typical_score,
        values=values,
        own=variant.own,
        checks=dict(saliency.checks),
    )
    return Explanation(facts, saliency, volumes)


def _counter(progress: Advance | None, total: int) -> Callable[[], None]:
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    return advance


def _votes(variant: Variant, said: Mapping[str, float]) -> tuple[Vote, ...]:
    margins = fold_margins(variant.spec, {key: np.array([probability]) for key, probability in said.items()})[:, 0]
    votes = []
    for fold, margin in zip(variant.spec.folds, margins.tolist(), strict=True):
        by_modality: dict[Modality, tuple[float, ...]] = {}
        for member in fold.networks:
            by_modality[member.modality] = (*by_modality.get(member.modality, ()), said[member.key])
        abstaining = sum(member.abstains for member in fold.members)
        baselines = [TABLE if variant.spec.has_table else None, variant.spec.linear_image]
        others = [None if each is None else said[baseline_key(each, fold.fold)] for each in baselines]
        votes.append(Vote(fold.fold, by_modality, abstaining, margin + fold.threshold, fold.threshold, *others))
    return tuple(votes)
