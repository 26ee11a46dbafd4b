"""Values that are not HU are told by what probably happened to them; real heads pass."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rlvo.errors import RlvoError
from rlvo.imaging.plausibility import check_head_ct
from rlvo.imaging.reading.source import read_volume
from rlvo.imaging.volume import Volume

HEADS = ["head_ct_tilted_dicom", "mni_ct_template/scct_hu_2mm.nii.gz"]
NOISE = np.random.default_rng(0)
GOOD: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "itself": lambda hu: hu,
    "noise": lambda hu: hu + NOISE.normal(0, 60, hu.shape),
    "padding": lambda hu: np.where(hu < -990, -3024, hu),
    "clipped": lambda hu: np.clip(hu, -1024, 3071),
    "20 HU off": lambda hu: hu - 20,
}
BAD: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "no intercept": (lambda hu: hu + 1024, "without the rescale intercept"),
    "another intercept": (lambda hu: hu + 1000, "without the rescale intercept"),
    "intercept twice": (lambda hu: hu - 1024, "applied twice"),
    "tenfold": (lambda hu: hu * 10, "ten times"),
    "a tenth": (lambda hu: hu / 10, "a tenth"),
    "normalised": (lambda hu: (hu - hu.min()) / (hu.max() - hu.min()), "0–1"),
    "windowed": (lambda hu: np.clip(hu, 0, 100), "0–255"),
    "unsigned": (lambda hu: np.where(hu < 0, hu + 65536, hu), "large positive"),
    "scaled": (lambda hu: hu * 0.8, "no air near −1000, but near −790"),
    "100 HU off": (lambda hu: hu + 100, "no air near −1000"),
    "one value": (lambda hu: hu * 0 + 7, "every voxel is 7"),
}


@pytest.fixture(scope="module", params=HEADS)
def head(request: pytest.FixtureRequest, real: Path) -> Volume:
    return read_volume(real / request.param)


@pytest.mark.parametrize("name", GOOD)
def test_heads_in_hu_pass(head: Volume, name: str) -> None:
    check_head_ct(Volume(GOOD[name](head.array[::2, ::2]), head.affine * [2, 2, 1, 1]), "here")


@pytest.mark.parametrize("name", BAD)
def test_other_values_are_named(head: Volume, name: str) -> None:
    change, words = BAD[name]
    with pytest.raises(RlvoError, match=words):
        check_head_ct(Volume(change(head.array[::2, ::2]), head.affine * [2, 2, 1, 1]), "here")


def test_real_volumes_that_are_not_hu(real: Path) -> None:
    for name, words in (("head_neck_ct/headsq.nii.gz", "rescale intercept"), ("cta_avm/AVM.nii.gz", "no air")):
        with pytest.raises(RlvoError, match=words):
            check_head_ct(read_volume(real / name), "here")
