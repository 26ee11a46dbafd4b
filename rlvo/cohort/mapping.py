"""Column names of other tables: a mapping from ours to theirs, which users give and rlvo never guesses."""

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from rlvo.cohort.variables import VARIABLES, Variable, did_you_mean, known_after_procedure
from rlvo.config.loading import load_study
from rlvo.config.predictors import OwnPredictor
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
"""Names that registries often use; they are only suggested."""
STUDY_KEYS = {"name", "cohort"}
"""A YAML file with one of these keys is a study."""
MIN_LIKENESS, MIN_LETTERS = 0.8, 6
"""An unknown column is taken for a misspelling of a column whose name is this like it and this long at least."""


def plain_name(cell: object) -> str:
    """Return a column's name as names are compared: in lower case, without surrounding blanks."""
    return str(cell).strip().lower()


@dataclass(frozen=True)
class KnownColumns:
    """The columns that a table may have, by the names it gives them (`plain_name`), and that of the patients' ids."""

    variables: Mapping[str, Variable]
    patient_id: str

    @classmethod
    def of(cls, mapping: Mapping[str, str], variables: Mapping[str, Variable]) -> "KnownColumns":
        """Our columns (`rlvo.cohort.variables.known_variables`) and those that are mapped to them."""
        mapped = {plain_name(theirs): variables[ours] for ours, theirs in mapping.items() if ours in variables}
        return cls({**variables, **mapped}, plain_name(mapping.get("patient_id", "patient_id")))

    def is_header(self, cells: Iterable[object]) -> bool:
        """Whether the cells of a row are column names: one of them names the patients' ids."""
        return self.patient_id in map(plain_name, cells)


def parse_map(*items: str, where: object = "--map") -> dict[str, str]:
    """Return the mapping of items such as "age=Edad" (ours=theirs); `where` they were given goes into errors.

    Raises:
        RlvoError: an item is not of that form, or a column of ours is mapped twice.
    """
    pairs = [item.partition("=") for item in items]
    for item, (ours, sign, theirs) in zip(items, pairs, strict=True):
        if not (sign and ours.strip() and theirs.strip()):
            raise RlvoError(f"'{item}' is not of the form ours=theirs", where=where, fix="Write it like age=Edad")
    counts = Counter(plain_name(ours) for ours, _, _ in pairs)
    if twice := sorted(name for name, count in counts.items() if count > 1):
        raise RlvoError(f"mapped twice: {', '.join(twice)}", where=where, fix="Map each of rlvo's columns once")
    return {plain_name(ours): theirs.strip() for ours, _, theirs in pairs}


def read_mapping(path: Path) -> dict[str, str]:
    """Read a mapping from a YAML file: a study's, which has it as `cohort.columns`, or one line `ours: theirs` each.

    Raises:
        RlvoError: there is no such file, it is neither a sound study nor a YAML mapping of names to names, or a column
            of ours is mapped twice.
    """
    fix = "Name a study's YAML file, or one with a line like 'age: Edad' per column"
    if not path.is_file():
        raise RlvoError("no such mapping file", where=path, fix=fix)
    try:
        content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        raise RlvoError(f"not readable as YAML: {' '.join(str(error).split())}", where=path) from None
    except RecursionError:
        raise RlvoError("nested too deeply", where=path, fix=fix) from None
    if isinstance(content, dict) and not STUDY_KEYS.isdisjoint(content):
        return parse_map(*(f"{ours}={theirs}" for ours, theirs in load_study(path).cohort.columns.items()), where=path)
    if not isinstance(content, dict) or not all(isinstance(name, str | int) for name in content.values()):
        raise RlvoError("not a mapping of names to names", where=path, fix=fix)
    return parse_map(*(f"{ours}={theirs}" for ours, theirs in content.items()), where=path)


def with_sources(
    mapping: Mapping[str, str], own: Iterable[OwnPredictor], names: Iterable[str] | None = None
) -> dict[str, str]:
    """The mapping, and the columns that predictors of one's own name as their source.

    Args:
        names: the table's columns; sources that are none of them are left out. None: all are taken.
    """
    sources = {each.name: each.source for each in own if each.source is not None}
    if names is not None:
        sources = {ours: theirs for ours, theirs in sources.items() if plain_name(theirs) in names}
    return sources | dict(mapping)


def rename_columns(
    names: Sequence[str],
    mapping: Mapping[str, str],
    where: object,
    *,
    partly: bool = False,
    variables: Mapping[str, Variable] = VARIABLES,
) -> list[str]:
    """Replace a table's column names by ours as the mapping says.

    Args:
        variables: our columns, and what they hold.
        partly: the table may lack columns that the mapping names, but for the patients' ids.

    Raises:
        RlvoError: lists every entry with a column of ours or theirs that does not exist, a column of theirs that is
            mapped twice or is named as one of ours, one of ours that the table already has, or an outcome mapped to a
            predictor.
    """
    wrong = []
    if partly:
        optional = {ours for ours in mapping if ours in variables and ours != "patient_id"}
        mapping = {o: theirs for o, theirs in mapping.items() if o not in optional or plain_name(theirs) in names}
    for ours, theirs in ((ours, plain_name(theirs)) for ours, theirs in mapping.items()):
        if ours not in variables:
            wrong.append(f"'{ours}' is not one of rlvo's columns{did_you_mean(ours, variables)}")
        elif theirs not in names:
            wrong.append(f"{ours}={theirs}: the table has no column '{theirs}'{did_you_mean(theirs, names)}")
        elif theirs != ours and ours in names:
            wrong.append(f"{ours}={theirs}: the table already has a column '{ours}'")
        elif theirs != ours and theirs in variables:
            wrong.append(f"{ours}={theirs}: '{theirs}' is itself one of rlvo's columns")
        elif variables[ours].role in ("predictor", "score") and known_after_procedure(theirs):
            wrong.append(f"{ours}={theirs}: '{theirs}' is known only after the procedure and cannot be a predictor")
    counts = Counter(plain_name(theirs) for theirs in mapping.values())
    wrong += [f"'{theirs}' is mapped to more than one column" for theirs, count in counts.items() if count > 1]
    if wrong:
        raise RlvoError(f"column names cannot be mapped: {'; '.join(wrong)}", where=where)
    ours_of = {plain_name(theirs): ours for ours, theirs in mapping.items()}
    return [ours_of.get(name, name) for name in names]


def suggest_column(missing: str, unknown: Iterable[str]) -> str | None:
    """Return a column of the table that may be the missing one: it has a similar name, or one registries often use."""
    plain = {name: name.replace(" ", "_").replace("-", "_") for name in unknown}
    usual = next((name for name, text in plain.items() if text in USUAL_NAMES.get(missing, ())), None)
    close = difflib.get_close_matches(missing, plain, n=1)
    return usual or (close[0] if close else None)


def misspelt_columns(
    present: Iterable[str],
    *,
    reported: Iterable[str | None] = (),
    variables: Mapping[str, Variable] = VARIABLES,
) -> Iterator[Finding]:
    """Find columns that are none of `variables` and whose names are close to one that the table does not have.

    Columns in `reported`, whose absence is a finding already, are left out.
    """
    present = list(present)
    absent = [name for name in variables if len(name) >= MIN_LETTERS and name not in {*present, *reported}]
    for name in (name for name in present if name not in variables):
        if close := difflib.get_close_matches(name, absent, n=1, cutoff=MIN_LIKENESS):
            fix = f"Rename it or map it ({close[0]}={name}); if it is something else, give it another name"
            yield Finding(None, name, f"is not used, but its name is close to {close[0]}", fix)
