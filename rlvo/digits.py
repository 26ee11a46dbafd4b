"""How many digits a number is shown with: as many as tell it from the one it is compared with."""

from collections.abc import Callable

MOST_DIGITS = 17
"""As many tell any two numbers apart."""


def tell_apart(write: Callable[[float, int], str], *values: float) -> tuple[str, ...]:
    """Numbers as `write` puts them, with as many digits more than usual as it takes for different ones to differ.

    Args:
        write: takes a number and how many digits more than usual it gets.
    """
    texts = tuple[str, ...]()
    for more in range(MOST_DIGITS):
        texts = tuple(write(value, more) for value in values)
        if len({*texts}) == len({*values}):
            break
    return texts


def gigabytes(*values: float) -> tuple[str, ...]:
    """Bytes as "1.5 GB", told apart."""
    return tell_apart(lambda value, more: f"{value / 1e9:.{1 + more}f} GB", *values)
