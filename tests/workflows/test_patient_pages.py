"""A study's own patients on pages: by the networks of the fold that was not trained on them, and never the hold-out."""

import html
import re
from pathlib import Path

import pandas as pd
import pytest
from support.commands import refused
from support.tiny_study import TinyStudy

import rlvo
from rlvo.ensemble.spec import EnsembleSpec
from rlvo.errors import RlvoError
from rlvo.study.folder import read_config, write_declared
from rlvo.study.openings import Openings
from rlvo.study.trials import EndedTrials
from rlvo.workflows.patient_pages import OPTIMISTIC, write_patient_pages
from rlvo.workflows.study import OpenStudy

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def opened(study: TinyStudy, specs: dict[str, EnsembleSpec], tmp_path_factory: pytest.TempPathFactory) -> OpenStudy:
    own = study.copy(tmp_path_factory.mktemp("pages") / "work")
    write_declared(own.folder, specs)
    return OpenStudy(read_config(own.folder), own.workdir, own.inputs)


def test_a_patients_page_has_what_the_other_folds_networks_said_in_the_search(
    opened: OpenStudy, specs: dict[str, EnsembleSpec], trials: EndedTrials, tmp_path: Path
) -> None:
    chosen = [fold[0] for fold in opened.inputs.split.folds]
    pages = write_patient_pages(opened, chosen, tmp_path, check=False)
    stored = trials.predictions.set_index(["patient", "member"])["probability"]
    for patient, page, fold in zip(chosen, pages, specs["ensemble"].folds, strict=True):
        assert page == tmp_path / f"{patient}.html"
        files = page.with_name(f"{patient}_files")
        (vote,) = pd.read_csv(files / "votes.csv").to_dict("records")
        assert vote["fold"] == fold.fold
        for member in fold.members:
            said = [float(each) for each in str(vote[member.modality]).split()]
            assert min(abs(each - stored[patient, member.key]) for each in said) < 1e-6
        text = html.unescape(page.read_text())
        assert patient in text
        assert OPTIMISTIC in text
        outcome = "rLVO" if opened.inputs.label[patient] else "no rLVO"
        assert re.search(rf"Outcome</dt>\s*<dd>{outcome}</dd>", text)
        assert ", calibrated" not in text  # the calibration is that of all folds' mean
        assert (files / "all-after.nii.gz").is_file()
    assert not Openings(opened.work.path).path.exists()


def test_others_are_refused_before_any_work(opened: OpenStudy, tmp_path: Path) -> None:
    held_out, own = opened.inputs.split.test[0], opened.inputs.split.folds[0][0]
    for patient, what in ((held_out, "belongs to the hold-out"), ("nobody", "validates no fold")):
        with pytest.raises(RlvoError, match=what):
            write_patient_pages(opened, [own, patient], tmp_path / "pages")
    said = refused("report", "tiny", "--workdir", opened.work.path, "-o", tmp_path / "page.html", "--patient", held_out)
    assert f"patient {held_out}: belongs to the hold-out" in said
    with pytest.raises(RlvoError, match="belongs to the hold-out"):
        rlvo.Study("tiny", workdir=opened.work.path).report(tmp_path / "page.html", patients=[held_out])
    assert not list(tmp_path.iterdir())
