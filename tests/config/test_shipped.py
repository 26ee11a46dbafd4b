"""The studies that come with rlvo are found by name, from any folder."""

from pathlib import Path

import pytest
from support.commands import refused

import rlvo
from rlvo.config.loading import load_study
from rlvo.config.shipped import shipped_studies
from rlvo.errors import RlvoError
from rlvo.study.folder import StudyFolder, read_or_shipped_config


def test_every_study_of_the_repository_is_found_by_its_name_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = sorted((Path(__file__).parents[2] / "tune_configs").glob("*.yaml"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()  # as `--workdir demo` leaves it
    assert [*shipped_studies()] == [file.stem for file in files]
    for file in files:
        assert load_study(Path(file.stem)) == load_study(file)
        assert load_study(file).name == file.stem


def test_a_file_goes_before_a_shipped_study_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("demo").write_text(shipped_studies()["paper_grid"].read_text())
    assert load_study(Path("demo")).name == "paper_grid"


@pytest.mark.parametrize(
    ("given", "meant"), [("papr_grid", "paper_grid"), ("tune_configs/search_asha.yaml", "search_asha")]
)
def test_an_unknown_name_is_refused_with_the_names_there_are(
    given: str, meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in (("plan",), ("search",), ("demo", "--config"), ("prepare", "none.csv", "--config")):
        said = refused(*command, given)
        assert f"did you mean '{meant}'?" in said
        assert all(name in said for name in shipped_studies())


def test_a_started_study_goes_before_a_shipped_one_of_its_name(tmp_path: Path) -> None:
    study = rlvo.Study("demo", workdir=tmp_path)
    assert study.config == load_study(shipped_studies()["demo"])
    with pytest.raises(RlvoError, match="no study was started here"):
        study.status()
    changed = study.config.model_copy(update={"seed": 7})
    study.folder.path.mkdir(parents=True)
    study.folder.config.write_text(changed.model_dump_json())
    assert rlvo.Study("demo", workdir=tmp_path).config.seed == 7
    assert read_or_shipped_config(study.folder).seed == 7
    with pytest.raises(RlvoError, match="no study was started here"):
        read_or_shipped_config(StudyFolder(tmp_path / "studies" / "mine"))
