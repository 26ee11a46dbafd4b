"""What to write instead of a cell that cannot be read: advice by the kind of column, and the accepted word if clear."""

import re
from datetime import date, timedelta

from rlvo.cohort.variables import Variable

ERROR = re.compile(r"#(n/[ad]|nv|[\w/¡¿]+[!?])", re.IGNORECASE)
"""Errors of spreadsheets, in several languages."""
UNKNOWN = re.compile(
    r"unk|unknown.*|unbekannt|inconnue?|desconocid[oa]|desconegut|sconosciut[oa]|onbekend|missing|fehl(t|end)"
    r"|sin datos?|not (available|known|done|recorded|applicable|assessed|reported|measured)|n\.\s?[adkvb]\.|n/[dk]"
    r"|k\.\s?a\.|\?+|[-–—]+|\*+|\.[a-z_]?|\.{2,}|#null!",
    re.IGNORECASE,
)
"""Words and marks for a value that is unknown; .a to .z are those of Stata and SAS, #NULL! is that of SPSS."""
EXCEL_EPOCH = date(1899, 12, 30)
LEAVE_EMPTY = "If the value is unknown, leave the cell empty"
ANYWHERE = (
    (r"\d{4}-\d{1,2}-\d{1,2}.*|\d{1,2}[./-]\d{1,2}[./-]\d{2,4}.*|\d{1,2}-[a-z]{3}(-\d+)?", "It looks like a date"),
    (r"(-\d+|7+|8+|9+[678]?)(\.0)?", "If it stands for a missing value, leave the cell empty"),
    (r"#null!", "SPSS writes it for a missing value: leave the cell empty"),
    (ERROR.pattern, "It is a formula error"),
    (rf"{UNKNOWN.pattern}|n[dik]|unk.*", LEAVE_EMPTY),
)
NUMBERS = (
    (r".*%", "Write the number without the percent sign, in the unit shown"),
    (r"true|false|wahr|falsch|vrai|faux|verdadero|falso", "It is an answer, not a number"),
    (r"[<>≤≥~≈].*|.*\d\s?[-–]\s?\d.*", "Write a single number"),
    (r"'.*", "Remove the apostrophe, a spreadsheet's mark of text"),
    (r"[+-]?\d{1,3}([ .,'’\u00a0]\d{3})+([.,]\d+)?", "Write numbers without thousands separators"),
    (r"[+-]?\d+([.,]\d+)?\s*[^\d\s.,].*", "Write only the number, in the unit shown"),
)
"""Common ways of writing a cell that cannot be read, as patterns, and the advice for each; the first match counts."""
ADVICE = {
    "binary": "1 for yes and 0 for no",
    "sex": "M or F: M is male, F is female",
    "occlusion_side": "left or right",
    "occlusion_site": "TICA (terminal internal carotid artery), M1 or M2",
    "etici": "only the grade, with a lower-case letter",
    "etiology": "icad for intracranial atherosclerosis and other for any other cause",
}
"""How cells are written, by column, or for all other yes-or-no columns."""
WORDS: dict[str, dict[str, str]] = {
    "binary": {
        "1": r"y|yes|s|s[iíì]|x|j|ja|o|oui|sim|wahr|vrai|verdader[oa]|verdadeiro|vero|waar|true|(un)?ticked|checked"
        r"|pos|positi(ve?|v|f|vo)|present|presente|[✓✔☑+]",
        "0": r"n|no|nein|nee|non|n[aã]o|falsch|faux|falso|onwaar|false|unchecked|neg|n[eé]gati(ve?|v|f|vo)"
        r"|absent|ausente|[☐✗✘]",
    },
    "sex": {
        "M": r"male|man|masculine?|masculino|maschio|m[äa]e?nnlich|mann|mannelijk|h|hombre|homme|homem|uomo|var[oó]n",
        "F": r"female|femal|woman|w|weiblich|frau|femme|f[eé]minin|femenin[oa]|feminin[oa]|femmina|mujer|mulher|donna"
        r"|dona|vrouw|vrouwelijk",
    },
    "occlusion_side": {
        "left": r"l|lt|li|left side|links|linker|izq.*|izd[ao]|esq.*|gauche|g|sinistr[ao]|sinister|sx",
        "right": r"r|rt|re|right side|rechts|rechter|d|der.*|dch[ao]|dir.*|droite?|destr[ao]|dexter|dx",
    },
    "etiology": {
        "icad": r"icas|intracranial (atheroscleros|stenos)is|in[- ]situ.*",
        "other": r"cardio-?embol.*|embol.*|dissection|undetermined|cryptogenic|esus|non-?icad",
    },
}
"""What stands for each accepted word, as patterns, in languages of the registries."""
YES_OR_NO = {"1": "for yes", "0": "for no"}
ROMAN = {"i": "1", "iia": "2a", "iib": "2b", "iic": "2c", "iii": "3"}


def hint(cell: str, variable: Variable, *, decimal_comma: bool = False) -> str | None:
    """Return what to write instead of a cell, or None if there is no telling."""
    text = " ".join(cell.lower().split())
    if variable.kind in ("continuous", "date") and re.fullmatch(r"[234]\d{4}(\.0)?", text):
        return f"It may be Excel's number for {EXCEL_EPOCH + timedelta(days=int(text[:5]))}"
    if variable.kind == "date":
        return _date_hint(text)
    if advice := _first(ANYWHERE, text):
        return advice
    if variable.kind == "continuous":
        if re.fullmatch(r"[+-]?\d{1,3}[.,]\d{3}", text):
            digits, _, decimals = text.replace(",", ".").partition(".")
            return f"Write {digits}{decimals} or {digits}.{decimals}, without thousands separators"
        if not decimal_comma and re.fullmatch(r"[+-]?\d+,\d+", text):
            return "Write a decimal point, not a comma"
        return _first(NUMBERS, text)
    advice = ADVICE.get(_group(variable), f"one of {variable.allowed}")
    if word := accepted_word(text, variable):
        return (
            f"Write {word} for {'yes' if word == '1' else 'no'}"
            if _group(variable) == "binary"
            else f"Write {word} ({advice})"
        )
    return f"Write {advice}"


def accepted_word(text: str, variable: Variable) -> str | None:
    """Return the level, or 1 or 0, that a cell in other words stands for; None if there is no telling, as for sex 1."""
    if variable.name == "occlusion_site":
        return _site(text)
    if variable.name == "etici":
        grade = re.sub(r"[\s.()-]", "", text)
        grade = re.sub(r"^[emo]?tici|^grad[eo]?", "", grade)
        grade = ROMAN.get(grade, grade)
        return grade if grade in variable.levels else None
    words = WORDS.get(_group(variable), {}).items()
    return next((word for word, pattern in words if re.fullmatch(pattern, text)), None)


def _group(variable: Variable) -> str:
    return variable.name if variable.levels else variable.kind


def _site(text: str) -> str | None:
    """Return the one site that is named, e.g. by "ICA-T", "carotid T", "MCA-M1" or "left M2, superior division"."""
    plain = re.sub(r"[^a-z0-9]+", " ", text)
    found = {name.upper() for name in re.findall(r"(?:\b|mca|acm)(m[1-4]|a[1-3]|p[1-3])\b", plain)}
    carotid = re.search(r"\b(ica|aci|carotid\w*|karotis|carotis)\b", plain)
    terminal = re.search(r"\b(t|top|tip|termin\w*|bifurcation)\b", plain)
    if (carotid and terminal) or re.search(r"\b(icat|tica|taci|acit)\b", plain):
        found.add("TICA")
    elif carotid or "basilar" in plain:
        found.add("")
    return found.pop() if len(found) == 1 and found <= {"TICA", "M1", "M2"} else None


def _date_hint(text: str) -> str | None:
    if found := re.fullmatch(r"(\d{4})([/. -]?)(\d{1,2})\2(\d{1,2})(?!\d).*", text):
        try:
            day = date(int(found[1]), int(found[3]), int(found[4]))
        except ValueError:
            return "There is no such day"
        return None if text.startswith(str(day)) else f"Write {day}, if it is that day"
    if UNKNOWN.fullmatch(text):
        return LEAVE_EMPTY
    return "Write year, month and day in this order: any other order is ambiguous"


def _first(hints: tuple[tuple[str, str], ...], text: str) -> str | None:
    return next((advice for pattern, advice in hints if re.fullmatch(pattern, text, re.DOTALL | re.IGNORECASE)), None)
