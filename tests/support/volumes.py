"""Patients whose volumes are on the grid already, so that preparing them takes no time."""

from pathlib import Path

import nibabel
import numpy as np

from rlvo.config.grid import PRESETS
from support.heads import head_on

FOCUS = PRESETS["focus"]
Rows = dict[str, dict[str, Path | None]]


def write_rows(folder: Path, patients: tuple[str, ...] = ("1", "2", "3", "cut")) -> Rows:
    """Write NCCT and CTA of each; the files of the patient `cut` are cut short."""
    rng, rows = np.random.default_rng(0), Rows()
    for patient in patients:
        rows[patient] = {"vessels": None}
        for role in ("ncct", "cta"):
            path = folder / f"{patient}-{role}.nii.gz"
            hu = np.rint(head_on(FOCUS) + rng.normal(0, 5, FOCUS.shape)).astype(np.int16)
            nibabel.save(nibabel.Nifti1Image(hu, FOCUS.affine), path)
            if patient == "cut":
                path.write_bytes(path.read_bytes()[:-50])
            rows[patient][role] = path
    return rows
