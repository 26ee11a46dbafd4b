"""A fold of small random volumes in which the label shows in both images and in one tabular variable."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rlvo.cohort.encoding import fit_encoder
from rlvo.training.dataset import FoldData, Patients

SHAPE = (16, 14, 12)


@pytest.fixture
def fold_data(tmp_path: Path) -> FoldData:
    rng = np.random.default_rng(0)
    labels = np.arange(36) % 2
    table = pd.DataFrame(
        {
            "age": rng.normal(70, 10, 36),
            "nihss": 10.0 + 5 * labels + rng.normal(0, 3, 36),
            "occlusion_side": rng.choice(["left", "right"], 36),
        },
        index=pd.Index([f"p{i:02}" for i in range(36)], name="patient_id"),
    )
    for patient, label in zip(table.index, labels, strict=True):
        folder = tmp_path / "store" / patient
        folder.mkdir(parents=True)
        for name, level in (("ncct", 35), ("cta", 90)):
            volume = rng.normal(level, 8, SHAPE)
            volume[5:11, 4:10, 3:9] += 10 * label
            np.save(folder / f"{name}.npy", volume.astype(np.float16))
        np.save(folder / "vessels.npy", (rng.random(SHAPE) < 0.1).astype(np.uint8))
    mask = np.zeros(SHAPE, dtype=bool)
    mask[2:-2, 2:-2, 2:-2] = True
    encoder = fit_encoder(table[:23], list(table))

    def patients(rows: slice) -> Patients:
        ids = tuple(table.index[rows])
        folders = tuple(tmp_path / "store" / patient for patient in ids)
        return Patients(ids, folders, encoder.transform(table[rows]), labels[rows])

    # 23 training patients in batches of 2 leave one over.
    return FoldData(patients(slice(0, 23)), patients(slice(23, 36)), mask, encoder)
