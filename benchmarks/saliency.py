"""Do maps show the occlusion? The share of a map's mass within 12 mm of it, on synthetic patients, where it is known.

`python -m benchmarks.saliency WORK [--study NAME] [--seeds N]` takes a work folder of `rlvo demo`. Every network of the
study's ensemble is asked about its own fold's validation patients (the hold-out stays closed), and compared with
networks of the same configuration and fold that were trained on permuted labels, with the vessel mask taken for a map,
and with a map spread evenly.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from benchmarks.measure import show
from rlvo.config.grid import Grid
from rlvo.config.workdir import Workdir
from rlvo.ensemble.build import STUDY_ENSEMBLE
from rlvo.ensemble.spec import MemberSpec
from rlvo.explain.gradcam import before_and_after
from rlvo.imaging.store import open_volumes
from rlvo.imaging.volume import grid_axes
from rlvo.report.style import BLUE, DPI, GREY, ORANGE, PAGE_WIDTH, paper_style
from rlvo.study.folder import read_declared
from rlvo.study.inputs import StudyInputs
from rlvo.study.trials import member_weights
from rlvo.synthetic.cohort import occlusion_places
from rlvo.training.dataset import Patients, Volumes
from rlvo.training.fit import fit
from rlvo.training.member import load_classifier
from rlvo.training.records import BEST_WEIGHTS
from rlvo.workflows.study import OpenStudy, open_searched_study

WITHIN_MM = 12.0
BATCH = 32
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "saliency.png"


@dataclass(frozen=True)
class Shares:
    """Shares of mass near the occlusion, before and after the fusion, of the patients whose map is not all zero."""

    before: np.ndarray
    after: np.ndarray

    @property
    def figures(self) -> tuple[float, ...]:
        """Means before and after, and how many maps after the fusion there are."""
        return float(self.before.mean()), float(self.after.mean()), float(len(self.after))


def benchmark_saliency(work: Path, study: str, seeds: int) -> None:
    """Print the mean shares by modality and draw them."""
    opened = open_searched_study(study, Workdir.at(work), cohort=work / "cohort" / "cohort.csv")
    near = nearby(occlusion_places(work / "cohort"), opened.config.grid)
    rows: dict[str, tuple[float, ...]] = {}
    trained, permuted = defaultdict(list), defaultdict(list)
    for member in read_declared(opened.folder)[STUDY_ENSEMBLE].members:
        data = opened.inputs.fold_data(member.fold)
        modality = member.configuration.model.modality
        found = _shares(member, member_weights(opened.folder, member), data.validation, near)
        trained[modality].append(found)
        if member.fold == 0:
            permuted[modality] += [
                _shares(member, path, data.validation, near) for path in _permuted(opened, member, seeds)
            ]
    for modality in trained:
        rows[f"{modality}: the ensemble's networks"] = _mean(trained[modality])
        if permuted[modality]:
            rows[f"{modality}: permuted labels, {len(permuted[modality])} seed(s)"] = _mean(permuted[modality])
    rows |= _references(opened.inputs, near)
    columns = ("before the fusion", "after it", "maps")
    show(f"mean share of map mass within {WITHIN_MM:g} mm of the occlusion, validation patients", columns, rows)
    _draw(rows)
    print(f"drawn: {PICTURE}")


def nearby(places: Mapping[str, np.ndarray], grid: Grid) -> dict[str, np.ndarray]:
    """The voxels [X, Y, Z] within WITHIN_MM of each patient's place (RAS mm)."""
    axes = grid_axes(grid)
    return {
        patient: sum(np.square(part) for part in np.ix_(*(axis - at for axis, at in zip(axes, place, strict=True))))
        <= WITHIN_MM**2
        for patient, place in places.items()
    }


def _shares(member: MemberSpec, weights: Path, patients: Patients, near: Mapping[str, np.ndarray]) -> Shares:
    model = member.configuration.model
    classifier = load_classifier(weights, model, patients.tabular.shape[1])
    volumes, found = Volumes(patients, model.channels), ([], [])
    for start in range(0, len(patients), BATCH):
        part = slice(start, start + BATCH)
        maps = before_and_after(classifier, volumes[part], torch.from_numpy(patients.tabular[part]))
        for patient, *own in zip(patients.ids[part], *maps, strict=True):
            for shares, each in zip(found, own, strict=True):
                if each.any():
                    shares.append(float(each.numpy()[near[patient]].sum() / each.sum()))
    return Shares(*map(np.array, found))


def _permuted(opened: OpenStudy, member: MemberSpec, seeds: int) -> Iterator[Path]:
    """Weights of networks of the member's configuration and fold, trained on permuted labels."""
    data, configuration = opened.inputs.fold_data(member.fold), member.configuration
    identity = opened.inputs.identity(configuration.key, member.fold)
    for seed in range(seeds):
        shuffle = np.random.default_rng(seed).permutation
        parts = {name: getattr(data, name) for name in ("training", "validation")}
        shuffled = replace(data, **{name: replace(part, labels=shuffle(part.labels)) for name, part in parts.items()})
        with tempfile.TemporaryDirectory() as folder:
            fit(
                configuration,
                shuffled,
                Path(folder),
                identity,
                seed=seed,
                device="cpu",
                threads=torch.get_num_threads(),
            )
            yield Path(folder) / BEST_WEIGHTS


def _references(inputs: StudyInputs, near: Mapping[str, np.ndarray]) -> dict[str, tuple[float, ...]]:
    """The shares of the vessel mask, and of a map spread evenly."""
    development = inputs.split.development
    masks = {patient: np.asarray(open_volumes(inputs.volumes[patient])["vessels"]) > 0 for patient in development}
    vessels = [float(mask[near[patient]].sum() / mask.sum()) for patient, mask in masks.items() if mask.any()]
    even = [float(near[patient].mean()) for patient in development]
    return {
        name: (float(np.mean(shares)),) * 2 + (float(len(shares)),)
        for name, shares in (("vessel mask", vessels), ("evenly spread", even))
    }


def _mean(found: list[Shares]) -> tuple[float, ...]:
    return Shares(*(np.concatenate([getattr(each, which) for each in found]) for which in ("before", "after"))).figures


@paper_style
def _draw(rows: Mapping[str, tuple[float, ...]]) -> None:
    figure = Figure(figsize=(PAGE_WIDTH, 0.27 * len(rows) + 0.7), layout="constrained")
    axes = figure.subplots()
    for y, (before, after, _) in enumerate(rows.values()):
        axes.plot([before, after], [y, y], color=GREY, linewidth=0.8, zorder=1)
        axes.scatter([before], [y], color=ORANGE, s=18, label="before the fusion" if y == 0 else None)
        axes.scatter([after], [y], color=BLUE, s=18, label="after the fusion" if y == 0 else None)
    axes.set(yticks=range(len(rows)), yticklabels=list(rows), ylim=(len(rows) - 0.5, -0.5))
    axes.set_xlim(left=0)
    axes.set_xlabel(f"Mean share of map mass within {WITHIN_MM:g} mm of the occlusion")
    axes.legend(loc="lower right")
    figure.savefig(PICTURE, dpi=DPI)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Do maps show the occlusion?")
    parser.add_argument("work", type=Path, help="work folder of rlvo demo")
    parser.add_argument("--study", default="demo")
    parser.add_argument("--seeds", type=int, default=5, help="networks with permuted labels, per modality")
    options = parser.parse_args()
    benchmark_saliency(options.work, options.study, options.seeds)


if __name__ == "__main__":
    main()
