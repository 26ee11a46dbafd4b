"""A section of a report that takes minutes to make, kept in a folder, so that later reports show it at once."""

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from rlvo.files import atomic_write, parse_json
from rlvo.report.exhibit import Exhibit, Section, write_exhibits
from rlvo.report.style import Drawing, svg

SECTION = "section.json"


def keep_section(section: Section, folder: Path, subject: str) -> None:
    """Keep a section in a folder of its own, instead of what was kept there.

    Args:
        subject: what the section is about, e.g. a model's hash.
    """
    (folder / SECTION).unlink(missing_ok=True)
    write_exhibits([section], folder)
    exhibits = [_packed(exhibit) for exhibit in section.exhibits]
    content = {**vars(section), "text": [*section.text], "exhibits": exhibits, "subject": subject}
    atomic_write(folder / SECTION, json.dumps(content))


def kept_section(folder: Path, subject: str) -> Section | None:
    """The section that is kept in a folder; None if there is none, or it is about something else or damaged."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        content = parse_json((folder / SECTION).read_bytes())
        if content.pop("subject") == subject:
            section = Section(**content)
            return replace(section, exhibits=[_unpacked(each, folder) for each in content["exhibits"]])
    return None


def _packed(exhibit: Exhibit) -> dict[str, Any]:
    """An exhibit as JSON takes it; its picture lies beside."""
    tables = {name: None if table is None else table.to_dict("split", index=False)
              for name, table in (("table", exhibit.table), ("shown", exhibit.shown))}  # fmt: skip
    small = None if exhibit.small is None else svg(exhibit.small)
    pictures = {"figure": exhibit.figure is not None, "small": small}
    return {**vars(exhibit), **tables, "best": sorted(exhibit.best), **pictures}


def _unpacked(content: dict[str, Any], folder: Path) -> Exhibit:
    tables = {name: None if content[name] is None else pd.DataFrame(**content[name]) for name in ("table", "shown")}
    figure = None
    if content["figure"]:
        path = folder / content["name"]
        figure = Drawing(path.with_suffix(".svg").read_text(encoding="utf-8"), path.with_suffix(".png").read_bytes())
    small = Drawing(content["small"], b"") if content.get("small") else None
    best = frozenset((row, column) for row, column in content["best"])
    return Exhibit(**{**content, **tables, "best": best, "figure": figure, "small": small})
