"""The page of all patients, read as text and looked at in a real browser."""

import html
import math
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import matplotlib.image
import numpy as np
import pytest
from support.volumes import FOCUS, write_rows

from rlvo.errors import MachineError, RlvoError
from rlvo.imaging.alignment.quality import LIMITS, Limit
from rlvo.imaging.cohort_preparation import PreparedCohort, PreparedPatient, prepare_cohort
from rlvo.imaging.store import VolumeStore
from rlvo.imaging.target import Target
from rlvo.report.contact_sheet import write_contact_sheet, write_page

MI = LIMITS["mutual_information"]


def just_outside(limit: Limit, share: float) -> float:
    """A value so far from the good range (0) to the end of the usable one (1)."""
    side = 0 if limit.good[0] != limit.usable[0] else 1
    return limit.good[side] + share * (limit.usable[side] - limit.good[side])


def names(page: str) -> list[str]:
    """Patients in the order of the page."""
    return [html.unescape(each) for each in re.findall(r"<h2><span>\w+</span> (.*?) ?(?:<small>.*)?</h2>", page)]


def patient(*doubts: str, notes: tuple[str, ...] = (), **figures: float) -> PreparedPatient:
    """A patient with these figures of the CTA."""
    of_cta = {f"cta/{name}": value for name, value in figures.items()}
    return PreparedPatient("ab12", ("cta",), doubts, notes, of_cta, 1.0)


def page_of(folder: Path, refused: dict[str, RlvoError] | None = None, **prepared: PreparedPatient) -> str:
    return write_page(PreparedCohort({**prepared, **(refused or {})}), {}, folder).read_text()


def test_the_worst_come_first(tmp_path: Path) -> None:
    good = {"mutual_information": MI.good[0] + 0.1, "of_no_limit": -1e9}
    cohort = {
        "fine": patient(**good),
        "near": patient("look", mutual_information=just_outside(MI, 0.1)),
        "guessed": patient("left and right are a guess", **good),
        "far": patient("look", mutual_information=just_outside(MI, 0.9)),
        "no number": patient("look", mutual_information=math.nan),
        "near, twice": patient("look", "look", mutual_information=just_outside(MI, 0.1)),
        "fine too": patient(),
    }
    page = page_of(tmp_path / "new", {"unreadable": RlvoError("the file is cut short")}, **cohort)
    assert (tmp_path / "new" / "index.html").read_text() == page
    order = ["unreadable", "no number", "far", "near, twice", "near", "guessed", "fine", "fine too"]
    assert names(page) == order
    counts = re.findall(r'<a href="#\w*">(\w+) <b>(\d+)</b>', page)
    assert counts == [("All", "8"), ("refused", "1"), ("review", "5"), ("prepared", "2")]


@pytest.mark.parametrize("name", LIMITS)
def test_figures_are_marked_as_quality_judges_them(name: str, tmp_path: Path) -> None:
    limit = LIMITS[name]
    values = {"good": sum(limit.good) / 2, "doubtful": just_outside(limit, 0.5), "hopeless": just_outside(limit, 1.5)}
    for mark, value in values.items():
        is_good, is_usable = (low <= value <= high for low, high in (limit.good, limit.usable))
        assert (is_good, is_usable) == {"good": (True, True), "doubtful": (False, True)}.get(mark, (False, False))
        page = page_of(tmp_path, p=patient(**{name: value}))
        cell = f'<td class="{mark}">' if mark != "good" else "<td>"
        assert f"{cell}{value:.3g}</td>" in page
        assert page.count("<td") == 1


def test_limits_are_named(tmp_path: Path) -> None:
    figures = {f"{volume}/{name}": sum(limit.good) / 2 for volume in ("cta", "ncct") for name, limit in LIMITS.items()}
    page = page_of(tmp_path, p=replace(patient(), figures=figures))
    assert "<th>NCCT</th><th>CTA</th><th>good</th><th>usable</th>" in page
    assert f"<th>≥ {MI.good[0]:g}</th><th>≥ {MI.usable[0]:g}</th>" in page
    rotation, hu = LIMITS["rotation"], LIMITS["brain_hu"]
    assert f"<th>≤ {rotation.good[1]:g}</th><th>≤ {rotation.usable[1]:g}</th>" in page
    assert f"<th>{hu.good[0]:g}–{hu.good[1]:g}</th><th>{hu.usable[0]:g}–{hu.usable[1]:g}</th>" in page
    assert page.count("<td") == 2 * len(LIMITS)


def test_badges_differ_without_colour_a_figure_without_limit_says_so_and_synthetic_heads_are_explained(
    tmp_path: Path,
) -> None:
    page = page_of(tmp_path, {"p": RlvoError("cut")}, **{"synth-00001": patient("look", of_no_limit=1.0)})
    marks = dict(re.findall(r"\.(\w+) h2 span::before { content: \"(.) \"; }", page))
    assert len(set(marks.values())) == len(marks) == 3
    assert "<th>any</th><th>any</th>" in page
    assert "<th></th></tr>" not in page
    assert "Synthetic patients are among them" in page
    assert "Synthetic" not in page_of(tmp_path, **{"p-1": patient()})


def test_text_from_the_cohort_stays_text(tmp_path: Path) -> None:
    hostile = "<script>alert('1')</script> & \"Ünï\" {{ 7*7 }}"
    described = replace(patient(hostile, notes=(hostile,)), figures={"<i>/<b>": 1.0})
    page = page_of(tmp_path, {f"{hostile}!": RlvoError(hostile)}, **{hostile: described})
    assert "<script" not in page
    assert names(page) == [f"{hostile}!", hostile]
    assert html.unescape(page).count(hostile) == 5
    assert "&lt;i&gt;" in page
    assert "<th>&lt;b&gt;</th>" in page


def test_pictures_are_found_from_the_page_alone(tmp_path: Path) -> None:
    pictures = {name: tmp_path / "pictures" / name for name in ("a b.png", "a%2Fb.png", "Ünï#?.png", "x'\"&.png")}
    cohort = PreparedCohort({name: patient() for name in pictures})
    page = write_page(cohort, pictures, tmp_path / "sheet").read_text()
    sources = [html.unescape(each) for each in re.findall(r'<img src="(.*?)"', page)]
    assert [(tmp_path / "sheet" / unquote(source)).resolve() for source in sources] == list(pictures.values())
    assert "://" not in page
    assert str(tmp_path) not in page


def test_a_cohort_is_drawn_once(tmp_path: Path) -> None:
    store, target, folder = VolumeStore(tmp_path / "store"), Target(grid=FOCUS), tmp_path / "sheet"
    cohort = prepare_cohort(write_rows(tmp_path, ("1", "cut")), target, store, workers=1)
    steps: list[tuple[int, int]] = []
    write_contact_sheet(cohort, store, FOCUS, folder, progress=lambda done, total: steps.append((done, total)))
    (picture,) = (folder / "pictures").iterdir()
    drawn = picture.stat().st_mtime_ns
    page = write_contact_sheet(cohort, store, FOCUS, folder, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(1, 1)]
    assert picture.stat().st_mtime_ns == drawn
    assert names(page.read_text()) == ["cut", "1"]
    assert f'<img src="pictures/{picture.name}"' in page.read_text()
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match="cannot write the contact sheet"):
        write_contact_sheet(PreparedCohort(cohort.refused), store, FOCUS, tmp_path / "file")


def seen(page: str, tmp_path: Path) -> list[str]:
    """Colours (of red, green, blue) in a screenshot of the page, from top to bottom."""
    browser = shutil.which("chromium")
    assert browser
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    shot = tmp_path / "shot.png"
    command = [browser, *flags, "--window-size=1000,2000", f"--screenshot={shot}", page]
    subprocess.run(command, check=True, capture_output=True, timeout=100)
    pixels = matplotlib.image.imread(shot)[..., :3]
    first = {}
    for channel, colour in enumerate(("red", "green", "blue")):
        rows = np.nonzero((pixels == np.eye(3)[channel]).all(axis=-1).sum(axis=1) > 100)[0]
        if rows.size:
            first[colour] = rows[0]
    return sorted(first, key=first.__getitem__)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on PATH")
@pytest.mark.slow
def test_a_browser_shows_the_pictures_worst_first_and_filters(tmp_path: Path) -> None:
    pictures = {}
    for channel, colour in ((2, "blue"), (0, "red"), (1, "green")):
        pictures[colour] = tmp_path / "pictures" / f"{colour} é%2F.png"
        pictures[colour].parent.mkdir(exist_ok=True)
        matplotlib.image.imsave(pictures[colour], np.broadcast_to(np.eye(3)[channel], (60, 80, 3)))
    cohort = {"blue": patient(), "red": patient("look", "look"), "green": patient("look")}
    page = write_page(PreparedCohort(cohort), pictures, tmp_path / "sheet").as_uri()
    assert seen(page, tmp_path) == ["red", "green", "blue"]
    assert seen(f"{page}#prepared", tmp_path) == ["blue"]
