"""A CT template as the atlas."""

from pathlib import Path

import nibabel
import numpy as np
import pytest

from rlvo.errors import RlvoError
from rlvo.imaging.alignment.template import load_atlas, write_template


@pytest.mark.slow
def test_a_template_becomes_the_atlas_and_travels(real: Path, tmp_path: Path) -> None:
    built_in = load_atlas()
    atlas = load_atlas(real / "mni_ct_template" / "scct_hu_2mm.nii.gz")
    assert atlas.key.startswith(f"{built_in.key}+")
    assert atlas.brain is built_in.brain
    assert 0.99 < atlas.region.sum() / built_in.region.sum() <= 1
    inner = np.corrcoef(atlas.head.array[built_in.region], built_in.head.array[built_in.region])[0, 1]
    assert 0.5 < inner < 0.99
    kept = tmp_path / "atlas.npz"
    write_template(atlas, kept)
    again = load_atlas(kept)
    assert again.key == atlas.key
    np.testing.assert_array_equal(again.head.array, atlas.head.array)
    np.testing.assert_array_equal(again.region, atlas.region)
    kept.write_bytes(kept.read_bytes()[:1000])
    load_atlas.cache_clear()  # a process keeps what it has read
    with pytest.raises(RlvoError, match="damaged"):
        load_atlas(kept)


@pytest.mark.slow
def test_a_template_outside_mni_space_is_refused(real: Path, tmp_path: Path) -> None:
    image = nibabel.load(real / "mni_ct_template" / "scct_hu_2mm.nii.gz")
    moved = image.affine.copy()
    moved[1, 3] += 10
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), moved), tmp_path / "moved.nii.gz")
    with pytest.raises(RlvoError, match="not a head CT in MNI space"):
        load_atlas(tmp_path / "moved.nii.gz")
    with pytest.raises(RlvoError, match="no such file"):
        load_atlas(tmp_path / "absent.nii.gz")
