"""How often Python asks the file system for something."""

import sys
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Any

CALLS = {"stat", "lstat", "open", "scandir", "listdir", "mkdir", "replace", "rename", "unlink"}


def count_calls(work: Callable[[], object]) -> int:
    """How many calls to the file system `work` makes in this thread."""
    counted = Counter[str]()

    def count(frame: FrameType, event: str, called: Any) -> None:
        if event == "c_call" and called.__name__ in CALLS and called.__module__ in ("posix", "io", "_io"):
            counted[called.__name__] += 1

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return counted.total()
