"""The page of all patients, read as text and looked at in a real browser."""

import html
import math
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import unquote

import matplotlib.image
import numpy as np
import pytest

from rlvo.imaging.contact_sheet import SheetEntry, contact_sheet
from rlvo.imaging.quality import LIMITS, Limit

MI = LIMITS["mutual_information"]


def just_outside(limit: Limit, share: float) -> float:
    """A value so far from the good range (0) to the end of the usable one (1)."""
    side = 0 if limit.good[0] != limit.usable[0] else 1
    return limit.good[side] + share * (limit.usable[side] - limit.good[side])


def names(page: str) -> list[str]:
    """Patients in the order of the page."""
    return [html.unescape(each) for each in re.findall(r"<h2><span>\w+</span> (.*?) ?(?:<small>.*)?</h2>", page)]


def test_the_worst_come_first(tmp_path: Path) -> None:
    def review(patient: str, value: float, reasons: int = 1) -> SheetEntry:
        return SheetEntry(patient, "review", ["look"] * reasons, figures={"cta/mutual_information": value})

    good = {"ncct/mutual_information": MI.good[0] + 0.1, "ncct/of_no_limit": -1e9}
    entries = [
        SheetEntry("fine", "prepared", figures=good, seconds=1.0),
        review("near", just_outside(MI, 0.1)),
        SheetEntry("unreadable", "refused", ["the file is cut short"]),
        SheetEntry("guessed", "review", ["left and right are a guess"], figures=good),
        review("far", just_outside(MI, 0.9)),
        review("no number", math.nan),
        review("near, twice", just_outside(MI, 0.1), reasons=2),
        SheetEntry("fine too", "prepared"),
    ]
    path = contact_sheet(entries, tmp_path / "new")
    assert path == tmp_path / "new" / "index.html"
    order = ["unreadable", "no number", "far", "near, twice", "near", "guessed", "fine", "fine too"]
    assert names(path.read_text()) == order
    counts = re.findall(r'<a href="#\w*">(\w+) <b>(\d+)</b>', path.read_text())
    assert counts == [("All", "8"), ("refused", "1"), ("review", "5"), ("prepared", "2")]


@pytest.mark.parametrize("name", LIMITS)
def test_figures_are_marked_as_quality_judges_them(name: str, tmp_path: Path) -> None:
    limit = LIMITS[name]
    values = {"good": sum(limit.good) / 2, "doubtful": just_outside(limit, 0.5), "hopeless": just_outside(limit, 1.5)}
    for mark, value in values.items():
        is_good, is_usable = (low <= value <= high for low, high in (limit.good, limit.usable))
        assert (is_good, is_usable) == {"good": (True, True), "doubtful": (False, True)}.get(mark, (False, False))
        page = contact_sheet([SheetEntry("5", "review", figures={f"cta/{name}": value})], tmp_path).read_text()
        cell = f'<td class="{mark}">' if mark != "good" else "<td>"
        assert f"{cell}{value:.3g}</td>" in page
        assert page.count("<td") == 1


def test_limits_are_named(tmp_path: Path) -> None:
    figures = {f"{volume}/{name}": sum(limit.good) / 2 for volume in ("cta", "ncct") for name, limit in LIMITS.items()}
    page = contact_sheet([SheetEntry("5", "prepared", figures=figures)], tmp_path).read_text()
    assert "<th>NCCT</th><th>CTA</th><th>good</th><th>usable</th>" in page
    assert f"<th>≥ {MI.good[0]:g}</th><th>≥ {MI.usable[0]:g}</th>" in page
    rotation, hu = LIMITS["rotation"], LIMITS["brain_hu"]
    assert f"<th>≤ {rotation.good[1]:g}</th><th>≤ {rotation.usable[1]:g}</th>" in page
    assert f"<th>{hu.good[0]:g}–{hu.good[1]:g}</th><th>{hu.usable[0]:g}–{hu.usable[1]:g}</th>" in page
    assert page.count("<td") == 2 * len(LIMITS)


def test_what_comes_from_the_cohort_stays_text(tmp_path: Path) -> None:
    hostile = "<script>alert('1')</script> & \"Ünï\" {{ 7*7 }}"
    entry = SheetEntry(hostile, "review", [hostile], [hostile], {"<i>/<b>": 1.0})
    page = contact_sheet([entry], tmp_path).read_text()
    assert "<script" not in page
    assert names(page) == [hostile]
    assert html.unescape(page).count(hostile) == 3
    assert "&lt;i&gt;" in page
    assert "<th>&lt;b&gt;</th>" in page


def test_pictures_are_found_from_the_page_alone(tmp_path: Path) -> None:
    pictures = [tmp_path / "pictures" / name for name in ("a b.png", "a%2Fb.png", "Ünï#?.png", "x'\"&.png")]
    page = contact_sheet(
        [SheetEntry(picture.stem, "prepared", picture=picture) for picture in pictures], tmp_path / "sheet"
    ).read_text()
    sources = [html.unescape(each) for each in re.findall(r'<img src="(.*?)"', page)]
    assert [(tmp_path / "sheet" / unquote(source)).resolve() for source in sources] == pictures
    assert "://" not in page
    assert str(tmp_path) not in page


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
def test_a_browser_shows_the_pictures_worst_first_and_filters(tmp_path: Path) -> None:
    entries = []
    for verdict, channel, colour in (("prepared", 2, "blue"), ("refused", 0, "red"), ("review", 1, "green")):
        picture = tmp_path / "pictures" / f"{colour} é%2F.png"
        picture.parent.mkdir(exist_ok=True)
        matplotlib.image.imsave(picture, np.broadcast_to(np.eye(3)[channel], (60, 80, 3)))
        entries.append(SheetEntry(colour, verdict, picture=picture))
    page = contact_sheet(entries, tmp_path / "sheet").as_uri()
    assert seen(page, tmp_path) == ["red", "green", "blue"]
    assert seen(f"{page}#review", tmp_path) == ["green"]
