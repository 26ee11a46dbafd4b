"""What every part of rlvo may say about itself: its version, where its sources are, and the intended-use sentence."""

from pathlib import Path

__version__ = "0.1.0"

SOURCES = Path(__file__).parent
"""The folder of the package that is running: the installed one, or a registered model's own."""

NOTICE = (
    "Research alert: expect a difficult recanalisation. Not a medical device and never an indication "
    "for a treatment; decide case by case."
)
"""The intended-use sentence that accompanies every output (paper, sections 4 and 5)."""
