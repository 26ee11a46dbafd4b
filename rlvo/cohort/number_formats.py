"""What a spreadsheet shows for a number: its format may add leading zeros, percent signs or words, or scale it."""

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

TOKENS = re.compile(r'"[^"]*"|\\.|[_*].|\[[^\]]*\]|E[+-]|General|.', re.DOTALL | re.IGNORECASE)
CONDITION = re.compile(r"\[(<=|>=|<>|<|>|=)(-?[\d.]+)\]")
CURRENCY = re.compile(r"\[\$([^-\]]*)(-[^\]]*)?\]")
OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "=": operator.eq, "<>": operator.ne,
}  # fmt: skip
DEFAULTS = {1: ("",), 2: (">=", "<"), 3: (">", "<", "")}
"""Which numbers each section is for, compared with zero, if no section has a condition: for all others, if empty."""
DIGITS = "0#?"


@dataclass(frozen=True)
class _Section:
    """The part of a format for some numbers: their condition, and tokens (placeholder?, text) in order."""

    condition: str
    limit: float
    tokens: tuple[tuple[bool, str], ...]

    @property
    def pattern(self) -> str:
        return "".join(text for is_placeholder, text in self.tokens if is_placeholder)

    def holds(self, value: float) -> bool:
        return not self.condition or OPERATORS[self.condition](value, self.limit)


@lru_cache(maxsize=1 << 16)
def shown_number(value: float, number_format: str) -> str | None:
    """Return the text that is shown, without separators of thousands; None if it is the number itself, rounded at most.

    Follows ECMA-376, part 1, 18.8.31. Scientific notation and fractions are the number itself, and so is the dash of
    accounting formats, which stands for zero.
    """
    if number_format == "General":
        return None
    section = next((each for each in _sections(number_format) if each.holds(value)), None)
    if section is None:
        return None
    pattern = section.pattern
    literals = "".join(text for is_placeholder, text in section.tokens if not is_placeholder).strip()
    if literals == "-" and value == 0:
        return None
    if not pattern:
        return literals
    if re.search(r"E[+-]|@", pattern) or "/" in literals:
        return None
    whole, _, fraction = pattern.replace("%", "").partition(".")
    thousands = sum(len(digits) - len(digits.rstrip(",")) for digits in (whole, fraction))
    if not literals and not thousands and "%" not in pattern and not re.search("0,*0", whole):
        return None
    scaled = value * 100 ** pattern.count("%") / 1000**thousands
    return _filled(abs(scaled) if section.condition == "<" else scaled, section.tokens).strip()


@lru_cache(maxsize=1024)
def _sections(number_format: str) -> tuple[_Section, ...]:
    parts: list[list[str]] = [[]]
    for token in TOKENS.findall(number_format):
        if token == ";":  # nosec B105 # part of a number format, no password
            parts.append([])
        else:
            parts[-1].append(token)
    has_conditions = any(CONDITION.fullmatch(token) for part in parts for token in part)
    defaults = ("",) * 3 if has_conditions else DEFAULTS[min(len(parts), 3)]
    return tuple(_section(tokens, default) for tokens, default in zip(parts, defaults, strict=False))


def _section(tokens: Sequence[str], condition: str) -> _Section:
    limit, kept = 0.0, list[tuple[bool, str]]()
    for token in tokens:
        if found := CONDITION.fullmatch(token):
            condition, limit = found[1], float(found[2])
        elif found := CURRENCY.fullmatch(token):
            kept.append((False, found[1]))
        elif token[0] in '"\\':
            kept.append((False, token[1:].removesuffix('"') if token[0] == '"' else token[1:]))
        elif token[0] not in "_*[" or len(token) == 1:
            is_placeholder = token in "0#?.,@%" or len(token) > 1  # nosec B105 # part of a number format, no password
            kept.append((is_placeholder, token.upper() if is_placeholder else token))
    return _Section(condition, limit, tuple(kept))


def _filled(value: float, tokens: Sequence[tuple[bool, str]]) -> str:
    """Write a number's digits into the placeholders."""
    point = next((at for at, token in enumerate(tokens) if token == (True, ".")), None)
    decimals = sum(part[1] in DIGITS for part in tokens[point:] if part[0]) if point is not None else 0
    if (True, "GENERAL") in tokens:
        return "".join(f"{value:.15g}" if is_placeholder else text for is_placeholder, text in tokens)
    whole, _, fraction = f"{abs(value):.{decimals}f}".partition(".")
    fraction = fraction.rstrip("0")
    digits, written = list(whole if whole != "0" else ""), list[str]()
    tokens = [(False, text) if text == "%" else (is_placeholder, text) for is_placeholder, text in tokens]
    before = tokens[:point]
    places = [at for at, (is_placeholder, text) in enumerate(before) if is_placeholder and text in DIGITS]
    for at in range(len(before) - 1, -1, -1):
        is_placeholder, text = before[at]
        if not is_placeholder:
            written.append(text)
        elif text in DIGITS:
            written.append(digits.pop() if digits else "0" if text == "0" else "")
            if at == places[0]:
                written += reversed(digits)
    after = "".join(text for is_placeholder, text in tokens[len(before) :] if not is_placeholder)
    sign = "-" if value < 0 else ""
    return f"{sign}{''.join(reversed(written))}{'.' + fraction if fraction else ''}{after}"
