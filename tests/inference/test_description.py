from pathlib import Path

import nibabel
import pytest
from safetensors import safe_open
from support.tiny_study import TinyStudy

from rlvo.ensemble.spec import EnsembleSpec
from rlvo.errors import RlvoError
from rlvo.imaging.alignment.template import load_atlas
from rlvo.imaging.prepare import preparation_key
from rlvo.imaging.target import Target
from rlvo.inference.description import describe, read_description, write_model_folder
from rlvo.inference.predictor import EnsemblePredictor


def test_the_model_folder_names_no_patient_and_no_path(study: TinyStudy, model_folder: Path) -> None:
    text = (model_folder / "ensemble.json").read_text()
    assert "PLANTED" not in text
    assert str(study.workdir.path.parent) not in text
    description = read_description(model_folder)
    assert description.predictors == study.config.cohort.predictors
    with safe_open(model_folder / "members.safetensors", "pt") as file:
        named = {name.partition("/")[0] for name in file.keys()}  # noqa: SIM118
    assert named == {member.key for member in description.spec.members}


def test_a_model_of_another_preparation_or_a_damaged_one_is_refused(model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RlvoError, match="there is no model here"):
        EnsemblePredictor.load(tmp_path)
    description = read_description(model_folder)
    (tmp_path / "ensemble.json").write_text(description.model_copy(update={"preparation": "other"}).model_dump_json())
    with pytest.raises(RlvoError, match="prepares them differently"):
        EnsemblePredictor.load(tmp_path)
    (tmp_path / "ensemble.json").write_text(description.model_dump_json()[:-40])
    with pytest.raises(RlvoError, match="damaged"):
        EnsemblePredictor.load(tmp_path)
    (tmp_path / "ensemble.json").write_text(description.model_dump_json())
    with pytest.raises(RlvoError, match="the weights are missing"):
        EnsemblePredictor.load(tmp_path)


@pytest.mark.slow
def test_the_users_own_template_travels_with_the_model_but_its_path_does_not(
    study: TinyStudy, specs: dict[str, EnsembleSpec], tmp_path: Path
) -> None:
    head = load_atlas().head
    template = tmp_path / "planted-hospital" / "template.nii.gz"
    template.parent.mkdir()
    nibabel.save(nibabel.Nifti1Image(head.array + 3, head.affine), template)
    target = Target(grid=study.config.grid, atlas=template)
    assert preparation_key(target) != preparation_key(Target(grid=study.config.grid))

    folder = tmp_path / "model"
    description = describe(specs["ensemble"], study.encoders, target)
    write_model_folder(folder, description, study.weights)
    assert "planted-hospital" not in (folder / "ensemble.json").read_text()
    template.unlink()
    back = read_description(folder)
    assert back.target.atlas == folder / "atlas.npz"
    assert back.preparation == preparation_key(back.target) == description.preparation
