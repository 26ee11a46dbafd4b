"""Saliency of one patient for an ensemble: the mean maps of its networks, and whether they are about the networks."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import torch

from rlvo.config.grid import Grid
from rlvo.config.model import Modality
from rlvo.ensemble.spec import EnsembleSpec, MemberSpec
from rlvo.errors import MachineError, RlvoError
from rlvo.explain.faithfulness import STEPS_PER_NETWORK, Faithfulness, check_map
from rlvo.explain.gradcam import MeanMaps, View, Which, average, feature_maps
from rlvo.imaging.volume import write_on_grid
from rlvo.inference.description import Variant
from rlvo.inference.members import Members, blank_absent
from rlvo.inference.patients import Patient
from rlvo.inference.predictor import EnsemblePredictor, choose_variant
from rlvo.training.dataset import stack_channels

Group = Literal["all", "NCCT", "CTA", "BOTH"]
"""The networks whose maps are averaged: all of the ensemble's, or those of one modality."""


@dataclass(frozen=True, eq=False)
class Saliency:
    """Where the image of one patient speaks for rLVO, as the networks of an ensemble see it."""

    maps: Mapping[Group, MeanMaps]
    """Of all networks, then of each modality the ensemble has."""
    checks: Mapping[Which, Faithfulness] = field(default_factory=dict)
    """Of the maps of all networks."""

    def write(self, folder: Path, grid: Grid) -> list[Path]:
        """Write `<group>-before.nii.gz` and `<group>-after.nii.gz` on the grid, e.g. `cta-after.nii.gz`.

        Raises MachineError if the folder cannot be written.
        """
        named = {
            folder / f"{group.lower()}-{which}.nii.gz": maps.of(which)
            for group, maps in self.maps.items()
            for which in get_args(Which)
        }
        try:
            for path, array in named.items():
                write_on_grid(path, array, grid)
        except OSError as error:
            raise MachineError(f"cannot write here: {error.strerror or error}", where=folder) from None
        return [*named]


def explain_patient(predictor: EnsemblePredictor, patient: Patient, *, check: bool = True, seed: int = 0) -> Saliency:
    """Explain the answer of a registered model for one patient, by the networks that answer for this patient.

    Raises RlvoError if the patient cannot be scored.
    """
    variant, _ = choose_variant(predictor.description.variants, patient)
    views = patient_views(predictor.members, predictor.named_members(variant), variant, patient)
    return explain(views, check=check, seed=seed)


def patient_views(
    networks: Members, members: Mapping[str, MemberSpec], variant: Variant, patient: Patient
) -> dict[Modality, list[View]]:
    """The variant's networks and the patient as they see them, by modality; arguments as for `ask_members`.

    A network counts as often as its fold lists it, and not at all if it abstains.

    Raises RlvoError if the patient cannot be scored.
    """
    if patient.volumes is None:
        raise RlvoError(patient.warnings[-1] if patient.warnings else "no volumes", where=f"patient {patient.id}")
    weights = _weights(variant.spec)
    inputs: dict[tuple[tuple[str, ...], tuple[str, ...]], torch.Tensor] = {}
    tables = {fold: encoder.transform(patient.row) for fold, encoder in variant.encoders.items()}
    views: dict[Modality, list[View]] = {}
    for name, member in members.items():
        model, table = member.configuration.model, torch.from_numpy(tables[member.fold]).to(networks.device)
        if (kind := (model.channels, member.absent)) not in inputs:
            stacked = torch.from_numpy(stack_channels(patient.volumes, *kind))
            inputs[kind] = stacked[None].to(networks.device, torch.float32)
        if (weight := weights[member]) > 0:
            classifier = networks.classifier(name, member, table.shape[1])
            shown = blank_absent(inputs[kind], classifier, member)
            views.setdefault(model.modality, []).append(View(classifier, shown, table, weight))
    return views


def explain(
    views: Mapping[Modality, Sequence[View]],
    *,
    check: bool = True,
    seed: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> Saliency:
    """Average the maps of all networks and of each modality's.

    Args:
        views: as `patient_views` gives them; at least one.
        check: whether to check the maps of all networks too, which asks every network about 400 times.
        seed: of the checks.
        advance: called as the checks proceed, `check_steps` times unless a map leaves nothing to check.
    """
    everyone = [view for own in views.values() for view in own]
    coarse = {id(view): feature_maps(view.classifier, view.volume, view.tabular) for view in everyone}
    groups: dict[Group, Sequence[View]] = {"all": everyone}
    for modality, own in views.items():
        groups[modality] = own
    maps = {group: average(own, [coarse[id(view)] for view in own]) for group, own in groups.items()}
    if not check:
        return Saliency(maps)
    known = [coarse[id(view)] for view in everyone]
    checks = {w: check_map(everyone, known, which=w, seed=seed, advance=advance) for w in _to_check(everyone)}
    return Saliency(maps, checks)


def check_steps(views: Mapping[Modality, Sequence[View]]) -> int:
    """How often the checks of `explain` call `advance` at most."""
    everyone = [view for own in views.values() for view in own]
    return len(_to_check(everyone)) * len(everyone) * STEPS_PER_NETWORK


def _to_check(views: Sequence[View]) -> tuple[Which, ...]:
    """Which maps differ: without a fusion that acts on the feature map, those before and after it are the same."""
    fuses = any(view.classifier.modulation is not None for view in views)
    return ("before", "after") if fuses else ("after",)


def _weights(spec: EnsembleSpec) -> dict[MemberSpec, float]:
    """How much each member counts. Members that abstain count if all do: there is nobody else to ask."""
    times = Counter(member for fold in spec.folds for member in fold.networks)
    counted = {member: 0.0 if member.abstains else float(count) for member, count in times.items()}
    return counted if any(counted.values()) else {member: float(count) for member, count in times.items()}
