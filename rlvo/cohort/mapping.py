"""Column names of other tables: a mapping from ours to theirs, given in words and never guessed."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from rlvo.cohort.variables import VARIABLES, known_after_procedure
from rlvo.errors import Finding, RlvoError

USUAL_NAMES: dict[str, tuple[str, ...]] = {
    "patient_id": ("id", "patient", "subject", "case", "nhc", "record_id", "study_id"),
    "age": ("edad", "alter"),
    "sex": ("gender", "sexo", "geschlecht"),
    "hypertension": ("hta", "htn", "hbp", "arterial_hypertension"),
    "dyslipidemia": ("dl", "dlp", "hyperlipidemia", "dyslipidaemia", "hyperlipidaemia", "hypercholesterolemia"),
    "diabetes": ("dm", "dm2", "diabetes_mellitus"),
    "smoking": ("smoker", "tobacco", "tabaco", "tabaquismo"),
    "atrial_fibrillation": ("af", "afib", "fa"),
    "nihss": ("nihss_admission", "nihss_baseline", "nihss_at_admission"),
    "ivt": ("rtpa", "tpa", "thrombolysis", "iv_thrombolysis", "fibrinolysis"),
    "unwitnessed_onset": ("wake_up", "wakeup", "unwitnessed"),
    "occlusion_side": ("side", "lado"),
    "occlusion_site": ("site", "occlusion", "vessel"),
    "etici": ("tici", "mtici", "tici_postinterventional"),
    "center": ("centre", "hospital"),
    "admission_date": ("date", "fecha"),
}
"""Names that registries often use; only ever suggested."""
CLOSE, LONG = 0.8, 6
"""Likeness to a name of at least so many letters from which on an unused column is taken for a slip of the pen."""


def plain_name(cell: object) -> str:
    """A column's name as it is compared: without case and surrounding blanks."""
    return str(cell).strip().lower()


def parse_map(*items: str, where: object = "--map") -> dict[str, str]:
    """Mapping from items such as "age=Edad" (ours=theirs); errors name `where` they were given.

    Raises:
        RlvoError: an item is not of that form, or a column of ours is named twice.
    """
    pairs = [item.partition("=") for item in items]
    for item, (ours, sign, theirs) in zip(items, pairs, strict=True):
        if not (sign and ours.strip() and theirs.strip()):
            raise RlvoError(f"'{item}' is not ours=theirs", where=where, fix="Write it like --map age=Edad")
    counts = Counter(plain_name(ours) for ours, _, _ in pairs)
    if twice := sorted(name for name, count in counts.items() if count > 1):
        raise RlvoError(f"mapped twice: {', '.join(twice)}", where=where, fix="Map each of ours once")
    return {plain_name(ours): theirs.strip() for ours, _, theirs in pairs}


def read_mapping(path: Path) -> dict[str, str]:
    """Mapping from a YAML file with a line `ours: theirs` a column.

    Raises:
        RlvoError: no such file, not YAML, not a mapping of names to names, or a column of ours twice.
    """
    if not path.is_file():
        raise RlvoError("no such mapping file", where=path, fix="Name a YAML file with a line 'age: Edad' a column")
    try:
        content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        raise RlvoError(f"not readable as YAML: {' '.join(str(error).split())}", where=path) from None
    if not isinstance(content, dict) or not all(isinstance(name, str | int) for name in content.values()):
        raise RlvoError("not a mapping of names to names", where=path, fix="Write a line like 'age: Edad' a column")
    return parse_map(*(f"{ours}={theirs}" for ours, theirs in content.items()), where=path)


def renamed(names: Sequence[str], mapping: Mapping[str, str], where: object) -> list[str]:
    """The column names of a table, ours where the mapping says so.

    Raises:
        RlvoError: every entry that names a column of ours or theirs that does not exist, a column of theirs that is
            mapped twice or has a name of ours, one of ours that the table has already, or an outcome as a predictor.
    """
    wrong = []
    for ours, theirs in ((ours, plain_name(theirs)) for ours, theirs in mapping.items()):
        if ours not in VARIABLES:
            wrong.append(f"'{ours}' is not a column of rlvo's{_meant(ours, VARIABLES)}")
        elif theirs not in names:
            wrong.append(f"{ours}={theirs}: the table has no column '{theirs}'{_meant(theirs, names)}")
        elif theirs != ours and ours in names:
            wrong.append(f"{ours}={theirs}: the table has a column '{ours}' already")
        elif theirs != ours and theirs in VARIABLES:
            wrong.append(f"{ours}={theirs}: '{theirs}' is a column of rlvo's itself")
        elif VARIABLES[ours].role in ("predictor", "score") and known_after_procedure(theirs):
            wrong.append(f"{ours}={theirs}: '{theirs}' is known only after the procedure and cannot be a predictor")
    counts = Counter(plain_name(theirs) for theirs in mapping.values())
    wrong += [f"'{theirs}' is mapped to more than one column" for theirs, count in counts.items() if count > 1]
    if wrong:
        raise RlvoError(f"column names cannot be mapped: {'; '.join(wrong)}", where=where)
    ours_of = {plain_name(theirs): ours for ours, theirs in mapping.items()}
    return [ours_of.get(name, name) for name in names]


def suggestion(missing: str, unknown: Iterable[str]) -> str | None:
    """A column of the table that may be the missing one: by likeness, or by a name that registries often use."""
    plain = {name: name.replace(" ", "_").replace("-", "_") for name in unknown}
    usual = next((name for name, text in plain.items() if text in USUAL_NAMES.get(missing, ())), None)
    close = difflib.get_close_matches(missing, plain, n=1)
    return usual or (close[0] if close else None)


def slips(present: Iterable[str], *, told: Iterable[str | None] = ()) -> list[Finding]:
    """Columns that rlvo does not know and that are named almost like one that the table does not have.

    Columns in `told`, whose absence is a finding already, are left out.
    """
    present = list(present)
    absent = [name for name in VARIABLES if len(name) >= LONG and name not in {*present, *told}]
    findings = []
    for name in (name for name in present if name not in VARIABLES):
        if close := difflib.get_close_matches(name, absent, n=1, cutoff=CLOSE):
            fix = f"Rename it or map it ({close[0]}={name}); if it is something else, name it otherwise"
            findings.append(Finding(None, name, f"is not used, and is named almost like {close[0]}", fix))
    return findings


def _meant(name: str, possible: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(possible), n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""
