"""False alarms: a real head and perturbed copies of it. Nothing sound may be refused, and all must register alike.

`python -m benchmarks.perturbed_head [COPIES]` with the volumes of RLVO_TEST_DATA, else ../shared/data.
"""

import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from rlvo.errors import RlvoError
from rlvo.imaging.alignment.atlas import built_in_atlas
from rlvo.imaging.alignment.quality import assess
from rlvo.imaging.alignment.registration import mean_distance, register_cta
from rlvo.imaging.plausibility import check_head_ct
from rlvo.imaging.reading.source import read_volume
from rlvo.imaging.resampling import resample
from rlvo.imaging.volume import Volume

SLICE_MM, FIELD_MM, CUT_MM = 5.0, 200.0, 40.0


def perturb(head: Volume, rng: np.random.Generator, number: int) -> tuple[Volume, np.ndarray]:
    """Turn by up to 30°, shift by up to 60 mm, scale by 0.9 to 1.1; every second copy is degraded, too, in turn.

    Return the copy and its displacement, 4×4 RAS mm, head point to copy point.
    """
    axis = rng.normal(size=3)
    turn = Rotation.from_rotvec(np.radians(rng.uniform(-30, 30)) * axis / np.linalg.norm(axis)).as_matrix()
    middle = (head.affine @ [*(np.array(head.array.shape) - 1) / 2, 1])[:3]
    displacement = np.eye(4)
    displacement[:3, :3] = turn
    displacement[:3, 3] = middle - turn @ middle + rng.uniform(-60, 60, 3) / np.sqrt(3)
    scale = np.eye(4)
    scale[:3, :3] *= rng.uniform(0.9, 1.1)
    displacement = displacement @ scale
    array, affine, spacing = head.array, head.affine, head.spacing
    kind = ("whole", "thick slices", "whole", "small field", "whole", "cut off below")[number % 6]
    if kind == "thick slices":
        shape = (*array.shape[:2], int(array.shape[2] * spacing[2] / SLICE_MM))
        thick = affine @ np.diag([1, 1, SLICE_MM / spacing[2], 1])
        array, affine = resample(head, thick, shape, np.eye(4)).array, thick
    elif kind == "small field":
        margins = [max(0, int((n - FIELD_MM / step) / 2)) for n, step in zip(array.shape, spacing, strict=True)][:2]
        array = array[margins[0] : array.shape[0] - margins[0], margins[1] : array.shape[1] - margins[1]]
        affine = affine.copy()
        affine[:3, 3] += affine[:3, :2] @ margins
    elif kind == "cut off below":
        below = int(CUT_MM / spacing[2])
        array, affine = array[:, :, below:], affine.copy()
        affine[:3, 3] += affine[:3, 2] * below
    # A scale of the head changes the spacing; a turn or shift changes where the axes point and begin.
    return Volume(np.asfortranarray(array), displacement @ affine), displacement


def main(copies: int) -> None:
    data = Path(os.environ.get("RLVO_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")
    head, atlas, rng = read_volume(data / "head_ct_tilted_dicom"), built_in_atlas(), np.random.default_rng(0)
    reference = register_cta(head, atlas)
    points = np.argwhere(atlas.brain[::10, ::10, ::10]) * 10 @ atlas.head.affine[:3, :3].T + atlas.head.affine[:3, 3]
    verdicts: Counter[str] = Counter()
    worst = 0.0
    for number in range(copies):
        copy, displacement = perturb(head, rng, number)
        try:
            check_head_ct(copy, None)
            found = register_cta(copy, atlas)
            assessment = assess(copy, found, atlas)
            said = [*assessment.hopeless, *assessment.doubtful]
            verdict = "refused" if assessment.hopeless else "review" if assessment.doubtful else "prepared"
            distance = mean_distance(found, displacement @ reference, points)
        except RlvoError as error:
            verdict, said, distance = "refused", [error.what], float("nan")
        verdicts[verdict] += 1
        worst = max(worst, distance)
        print(f"{number:2d} {verdict:8s} {distance:4.1f} mm  {'; '.join(said)}", flush=True)
    print(dict(verdicts), f"at most {worst:.1f} mm from the head's own registration")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
