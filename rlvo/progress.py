"""How long work reports how far it is: the caller hands in what shows it, so nothing below the commands prints."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Advance = Callable[[int, int], None]
"""Called with (done, total)."""
ShowProgress = Callable[[str], AbstractContextManager[Advance]]
"""Takes a description and gives a context whose value is called with (done, total)."""


@contextmanager
def no_progress(description: str) -> Iterator[Advance]:
    """Show nothing."""
    yield lambda done, total: None
