"""The documentation as a site: built strictly, complete, and readable from disk without a network."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.documents import DOCUMENTS, ROOT

ELSEWHERE = {"README.md": "index", "CONTRIBUTING.md": "contributing", "CHANGELOG.md": "changelog"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_the_site_has_every_document_and_asks_no_host(site: Path) -> None:
    for document in DOCUMENTS:
        path = document.relative_to(ROOT).as_posix()
        name = ELSEWHERE.get(path) or (document.parent.name if document.stem == "README" else document.stem)
        assert (site / f"{name}.html").is_file(), path
    assert "rlvo.models.fusion.DAFT" in (site / "python.html").read_text()
    for page in site.rglob("*.html"):
        for address in re.findall(r"""<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)="([^"]*)""", page.read_text()):
            assert not address.startswith(("http:", "https:", "//")), f"{page.name} loads {address}"
            if page.name != "404.html" and not address.startswith("data:"):
                assert (page.parent / re.split("[?#]", address)[0]).exists(), f"{page.name} lacks {address}"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on PATH")
def test_the_search_works_from_disk(site: Path, tmp_path: Path) -> None:
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=15000", "--dump-dom"]
    command = ["chromium", *flags, f"--user-data-dir={tmp_path}", f"{(site / 'index.html').as_uri()}?q=pseudonym"]
    drawn = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    assert re.search(r"[1-9]\d* matching documents", drawn)
    assert re.search("(?i)<mark[^>]*>pseudonym", drawn)


PROBE = """<script>addEventListener("load", () => parent.postMessage(
  [document.body.scrollWidth - document.body.clientWidth].concat(
    [...document.querySelectorAll("article img")].map(each => each.width)), "*"))</script></body>"""
FRAME = """<iframe src="report.html" width="420" height="900" style="border: 0"></iframe><script>
addEventListener("message", told => document.title = told.data.join(" "))</script>"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on PATH")
def test_on_a_small_screen_a_picture_stays_legible_and_the_page_narrow(site: Path, tmp_path: Path) -> None:
    own = shutil.copytree(site, tmp_path / "site")
    (own / "report.html").write_text((own / "report.html").read_text().replace("</body>", PROBE))
    (own / "frame.html").write_text(FRAME)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom"]
    command = ["chromium", *flags, f"--user-data-dir={tmp_path / 'profile'}", (own / "frame.html").as_uri()]
    drawn = subprocess.run(command, check=True, capture_output=True, text=True, timeout=100).stdout
    told = re.search("<title>(.*)</title>", drawn)
    assert told is not None
    beyond, *pictures = map(int, told[1].split())
    assert beyond == 0
    assert len(pictures) >= 3
    assert set(pictures) == {680}
