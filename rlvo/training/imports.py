"""MONAI without what it would load beside it: a search has one such process per trial at work."""

import sys

EXTRAS = (
    "ignite", "itk", "matplotlib", "mlflow", "nibabel", "optuna", "PIL", "pydicom", "skimage", "tensorboard",
    "tensorboardX",
)  # fmt: skip
"""What MONAI imports for parts of it that no trial uses."""


def import_monai() -> None:
    """Import MONAI without the packages that it would load for parts of it that no trial uses.

    They would cost each worker 1.4 s and 90 MB (docs/search.md). MONAI takes them for not installed; whoever imports
    one later in this process gets it.
    """
    hidden = [name for name in EXTRAS if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: an import raises ImportError
    try:
        import monai  # noqa: F401
    finally:
        for name in hidden:
            del sys.modules[name]
