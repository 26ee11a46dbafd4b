"""rlvo: find, combine and ship models that predict refractory large-vessel occlusion before thrombectomy."""

__version__ = "0.1.0"

NOTICE = (
    "Research alert: expect a difficult recanalisation. Not a medical device and never an indication "
    "for a treatment; decide case by case."
)
"""The intended-use sentence that accompanies every output (paper, sections 4 and 5)."""
