"""Errors a user can cause or must know of: one line that says what, where and how to mend it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class RlvoError(Exception):
    """The input is at fault. Shown as one line, without a traceback; the process ends with `exit_code`.

    Args:
        what: what is wrong, as a short clause.
        where: file, patient or field it is about.
        fix: how to mend it.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: object = None, fix: str | None = None) -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__(what, where, fix)

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where is not None else self.what
        return f"{text}. {self.fix}" if self.fix else text

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.what, self.where, self.fix)


def _rebuild(kind: type[RlvoError], what: str, where: object, fix: str | None) -> RlvoError:
    # Keyword-only arguments do not survive the default pickling of exceptions (worker processes raise these).
    return kind(what, where=where, fix=fix)


class MachineError(RlvoError):
    """The machine or a service is at fault (disk full, server away), not the input."""

    exit_code = 1


class PatientError(RlvoError):
    """A patient's prepared volumes are at fault: every trial would meet that, so the search stops."""


class DiskFullError(MachineError):
    """No room to write: every trial would meet that, so the search stops."""


@dataclass(frozen=True)
class Finding:
    """One thing wrong with one cell, row, column or file of a cohort."""

    patient: str | None
    field: str | None
    what: str
    fix: str | None = None
    value: str | None = None
    """The cell as it was written, where it is about one."""
    allowed: str | None = None
    """What the cell may hold, in words."""

    def __str__(self) -> str:
        where = ", ".join(
            part for part in (f"patient {self.patient}" if self.patient else "", self.field or "") if part
        )
        text = f"{where}: {self.what}" if where else self.what
        allowed = f"Allowed: {self.allowed}" if self.allowed else None
        return ". ".join(part for part in (text, allowed, self.fix) if part)


class CohortError(RlvoError):
    """Everything wrong with a cohort, told at once: one line a finding."""

    def __init__(self, findings: Sequence[Finding], *, where: object = None) -> None:
        self.findings = tuple(findings)
        super().__init__(f"{len(self.findings)} finding(s)", where=where)

    def __str__(self) -> str:
        return "\n".join([super().__str__(), *(f"  {finding}" for finding in self.findings)])

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_cohort_error, (self.findings, self.where)


def _rebuild_cohort_error(findings: Sequence[Finding], where: object) -> CohortError:
    return CohortError(findings, where=where)
