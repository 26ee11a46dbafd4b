"""Why biomarkers are missing and what to look at, over many patients: their doubts by kind, without what is of one.

A doubt may hold a number, a side, or what is wrong with a file; the name of its kind does not.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

OF_NCCT, OF_CTA, OF_CLOT, OF_SIDE = (
    "calcium_.*|clot_.*|taper_mm|density_hu",
    "clot_.*|taper_mm|collaterals|.*_filling_hu",
    "clot_.*|taper_mm",
    ("(?!calcium_mm3|calcium_mg).*"),
)
"""The biomarkers that need a scan, are of the clot, or need a side."""
OTHER, NO_REASON = "other doubts", "no reason given"


@dataclass(frozen=True)
class Kind:
    """A kind of doubt: how one is worded (a pattern), its name, and the biomarkers that may be missing for it.

    `missing` is a pattern too; None: the one that the doubt itself names, as its first word.
    """

    wording: str
    name: str
    missing: str | None = "(?!)"


KINDS = (
    Kind("not prepared", "not prepared", ".*"),
    Kind("a scan could not be read again: .*", "a scan could not be read again", ".*"),
    Kind("NCCT and CTA are the same scan: .*", "NCCT and CTA are the same scan", OF_NCCT),
    Kind("NCCT: carotid end and M1 are outside the scan: .*", "NCCT: carotid end and M1 are outside the scan", OF_NCCT),
    Kind("CTA: carotid end and M1 are outside the scan: .*", "CTA: carotid end and M1 are outside the scan", OF_CTA),
    Kind("CTA: no contrast in the trunk: .*", "CTA: no contrast in the trunk", OF_CTA),
    Kind("no NCCT: .*", "no NCCT", OF_NCCT),
    Kind("no CTA: .*", "no CTA", OF_CTA),
    Kind("nothing was measured", "nothing was measured", ".*"),
    Kind("clot was not measured: .*", "clot: nothing dense without contrast where the occlusion should be", OF_CLOT),
    Kind("taper was not measured: .*", "taper: the lumen cannot be followed from the carotid to the clot", "taper_mm"),
    Kind("calcium in the stump may hide a taper", "calcium in the stump may hide a taper"),
    Kind("collaterals were not measured: .*", "collaterals: hardly any branches on the other side", "collaterals"),
    Kind(r"\w+ not measured: the region is .*", "a region is outside the scan", None),
    Kind(r"\w+ not measured: .* cannot be", "a value that cannot be", None),
    Kind("the images hardly show a side", "the images hardly show a side", OF_SIDE),
    Kind("only the NCCT's density says that it is the .* side", "only the NCCT's density shows a side"),
    Kind("the images show the .* side, but occlusion_side is .*", "the images show the other side than occlusion_side"),
    Kind("NCCT: voxels of .*", "NCCT: large voxels, so that calcium and clot are uncertain"),
    Kind("CTA: voxels of .*", "CTA: large voxels, so that calcium and clot are uncertain"),
)
"""Those of `imaging.biomarkers` and `cohort_biomarkers`. Of several reasons for a missing value the first counts."""


def kinds_of(doubts: str) -> dict[str, str]:
    """The kinds of a patient's doubts, as the table writes them ("; " between them), in the order of KINDS.

    Returns:
        By the kind's name a pattern of the biomarkers that may be missing for it; OTHER for what is of no kind.
    """
    parts = [part for part in doubts.split("; ") if part]
    found: dict[str, str] = {}
    for kind in KINDS:
        if own := [part for part in parts if re.fullmatch(kind.wording, part, re.DOTALL)]:
            found[kind.name] = "|".join(part.split()[0] for part in own) if kind.missing is None else kind.missing
            parts = [part for part in parts if part not in own]
    return found | ({OTHER: "(?!)"} if parts else {})


def count_doubts(patients: Iterable[str]) -> Counter[str]:
    """How many patients have a doubt of each kind, given the doubts of each."""
    return Counter(name for doubts in patients for name in kinds_of(doubts))


def count_reasons(biomarker: str, patients: Iterable[str]) -> Counter[str]:
    """Why a biomarker was not measured in patients without it, given the doubts of each: each patient counts once."""
    return Counter(
        next((name for name, missing in kinds_of(doubts).items() if re.fullmatch(missing, biomarker)), NO_REASON)
        for doubts in patients
    )
