"""One page about a study: who the patients are, what was found, how far it can be trusted, and where it comes from."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rlvo.about import NOTICE
from rlvo.report.exhibit import Section
from rlvo.report.style import render_page

TEMPLATE = Path(__file__).with_name("study_page.html")
TRUST, TRUST_TITLE = "trust", "How far the figures can be trusted"
"""Anchor and title of the section that says so."""
BADGES = {"hold-out": "hold-out", "nested": "out of fold, nested", "optimistic": "optimistic"}


def study_page(
    name: str, facts: Mapping[str, str], cautions: Sequence[str], sections: Sequence[Section], files: str
) -> str:
    """Render a self-contained HTML page: pictures embedded, no script.

    Args:
        name: of the study.
        facts: what stands at the top, by heading.
        cautions: how far the figures can be trusted, one sentence each.
        sections: in order.
        files: the folder beside the page that holds every exhibit's files.
    """
    return render_page(
        TEMPLATE,
        title=f"Study {name}",
        trust_title=TRUST_TITLE,
        facts=facts,
        cautions=cautions,
        sections=sections,
        files=files,
        notice=NOTICE,
        badges=BADGES,
        trust=TRUST,
    )
