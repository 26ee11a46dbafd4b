"""How the commands are shown: help without a type beside a flag, and usage errors with what was mistyped as it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand, TyperGroup

from rlvo.report.console import show_working
from rlvo.text import escape_controls

if TYPE_CHECKING:
    from typer.core import TyperOption

    Base = TyperCommand
else:
    Base = object


class _Flags(Base):
    """Flags have no value, so their help names no type; Typer's says `<bool>`."""

    def get_params(self, ctx: Any) -> Any:
        """As in Typer."""
        found: list[TyperOption] = super().get_params(ctx)  # type: ignore[assignment]
        for option in found:
            if getattr(option, "is_flag", False):
                option.metavar = ""
        return found


WORDS = "rlvo.words"
"""Under which key of a context's `meta` the words after a group's name are."""
ENDLESS = ("serve", "ui", "status")
"""Commands that show nothing of their own for long, or all of it."""


class Command(_Flags, TyperCommand):
    """A command of rlvo; a terminal shows that it works."""

    def invoke(self, ctx: Any) -> Any:
        """As in Typer."""
        with nullcontext() if ctx.info_name in ENDLESS else show_working(ctx.command_path):
            return super().invoke(ctx)


class CommandGroup(_Flags, TyperGroup):
    """Commands whose errors show what was mistyped as it is: Typer prints it with its control characters."""

    def make_context(self, *args: Any, **options: Any) -> Any:
        """As in Typer."""
        with _escaped_usage_errors():
            return super().make_context(*args, **options)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As in Typer; the words that follow the group's name are kept."""
        ctx.meta[WORDS] = [*args]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """As in Typer."""
        working = nullcontext() if ctx.parent is None else show_working(ctx.command_path)  # a group that is a command
        with _escaped_usage_errors(), working:
            return super().invoke(ctx)


@contextmanager
def _escaped_usage_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if isinstance(message := getattr(error, "message", None), str) and hasattr(error, "format_message"):
            error.message = escape_controls(message)  # type: ignore[attr-defined]
        raise
