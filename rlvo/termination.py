"""SIGTERM for a whole command, as `timeout`, SLURM and systemd send it: only its first process hears it."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def deaf_to_sigterm() -> Iterator[None]:
    """Have no process that starts in this context hear SIGTERM, nor what it starts in turn.

    The first process ends the others in good order. If they ended at once, trials would fail, and Tune would wait for
    an answer of Ray's that never comes.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
