"""A model folder whose volumes were registered to a template of the user's: it travels along, its path does not."""

from pathlib import Path
from typing import Any

import nibabel
import pytest

from rlvo.ensemble.spec import EnsembleSpec
from rlvo.ensemble.trials import trial_weights
from rlvo.imaging.atlas import load_atlas
from rlvo.imaging.prepare import preparation_key
from rlvo.imaging.target import Target
from rlvo.registry.folder import describe, read_description, write_model_folder


@pytest.mark.slow
def test_a_template_atlas_travels_with_the_model(study: Any, specs: dict[str, EnsembleSpec], tmp_path: Path) -> None:
    head = load_atlas().head
    template = tmp_path / "planted-hospital" / "template.nii.gz"
    template.parent.mkdir()
    nibabel.save(nibabel.Nifti1Image(head.array + 3, head.affine), template)
    target = Target(grid=study.config.grid, atlas=template)
    assert preparation_key(target) != preparation_key(Target(grid=study.config.grid))

    encoders = {fold: study.inputs.encoder(fold) for fold in range(2)}
    folder = tmp_path / "model"
    description = describe(specs["ensemble"], encoders, target)
    write_model_folder(folder, description, lambda _, member: trial_weights(study.folder, member))
    assert "planted-hospital" not in (folder / "ensemble.json").read_text()
    template.unlink()
    back = read_description(folder)
    assert back.target.atlas == folder / "atlas.npz"
    assert back.preparation == preparation_key(back.target) == description.preparation
