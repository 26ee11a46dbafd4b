"""The linear model of the volumes: a planted blob is found on either side, chance stays chance, and nothing leaks."""

from pathlib import Path

import numpy as np
import pytest
from scipy.special import logit
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from rlvo.training.dataset import Patients
from rlvo.training.linear_image import VERSION, fit_linear_images, read_blocks

SHAPE, SPACING = (16, 12, 10), (4.0, 4.0, 4.0)


def stored(folder: Path, patients: int, contrast: float, seed: int = 0) -> tuple[Patients, np.ndarray]:
    """Noise in both volumes, and in the CTA of patients with rLVO a blob on the affected side; whether it is right."""
    rng = np.random.default_rng(seed)
    label, is_right = rng.random(patients) < 0.3, rng.random(patients) < 0.5
    for i in range(patients):
        (folder / f"p{i}").mkdir(parents=True)
        for name in ("ncct", "cta"):
            volume = rng.normal(40, 20, SHAPE)
            if name == "cta" and label[i]:
                at = slice(11, 14) if is_right[i] else slice(2, 5)
                volume[at, 4:7, 4:7] += contrast
            np.save(folder / f"p{i}" / f"{name}.npy", volume.astype(np.float16))
    ids = tuple(f"p{i}" for i in range(patients))
    table = rng.random((patients, 3)).astype(np.float32)
    return Patients(ids, tuple(folder / each for each in ids), table, label.astype(int)), is_right


def auc(patients: Patients, blocks: np.ndarray, labels: np.ndarray, table: np.ndarray | None = None) -> float:
    """Of the second half of the patients, after a fit to the first: of images alone, or with `table`."""
    half = len(labels) // 2
    fitted = patients.tabular if table is None else table
    alone, with_table = fit_linear_images(blocks[:half], labels[:half], fitted[:half])
    answers = alone.predict(blocks[half:]) if table is None else with_table.predict(blocks[half:], table[half:])
    return float(roc_auc_score(labels[half:], answers))


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Patients, np.ndarray]:
    return stored(tmp_path_factory.mktemp("planted"), 300, contrast=50)


def test_a_blob_on_the_affected_side_is_found_if_the_side_is_known(planted: tuple[Patients, np.ndarray]) -> None:
    patients, is_right = planted
    known = auc(patients, read_blocks(patients, SPACING, is_right), patients.labels)
    assert known > 0.9
    unknown = auc(patients, read_blocks(patients, SPACING, np.zeros(300, bool)), patients.labels)
    assert unknown < known - 0.02


def test_permuted_labels_are_chance(planted: tuple[Patients, np.ndarray]) -> None:
    patients, is_right = planted
    blocks, rng = read_blocks(patients, SPACING, is_right), np.random.default_rng(1)
    found = [auc(patients, blocks, rng.permutation(patients.labels), patients.tabular) for _ in range(12)]
    assert abs(np.mean(found) - 0.5) < 3 * np.std(found, ddof=1) / np.sqrt(12) + 0.01


def test_blocks_are_means_of_the_turned_volume(planted: tuple[Patients, np.ndarray]) -> None:
    patients, is_right = planted
    blocks = read_blocks(patients, SPACING, is_right)
    assert blocks.shape == (300, 2, 4, 3, 2)
    one = int(np.flatnonzero(is_right)[0])
    volume = np.load(patients.volumes[one] / "cta.npy").astype(np.float32)[::-1]
    expected = volume.reshape(4, 4, 3, 4, 2, 5).mean(axis=(1, 3, 5))
    np.testing.assert_allclose(blocks[one, 1], expected, rtol=1e-5)
    again = read_blocks(patients, SPACING, is_right)
    np.testing.assert_array_equal(blocks, again)


def test_what_it_says_belongs_to_its_version() -> None:
    """If this fails because the model says something else now, raise `VERSION`, and take the new figures."""
    index = np.arange(12 * 2 * 4 * 3 * 2).reshape(12, 2, 4, 3, 2)
    blocks, labels = (40 + 20 * np.sin(0.7 * index**1.5)).astype(np.float32), np.arange(12) % 3 == 0
    table = np.cos(np.arange(36)).reshape(12, 3)
    alone, with_table = fit_linear_images(blocks[:9], labels[:9], table[:9])
    said = [alone.predict(blocks[9:]), with_table.predict(blocks[9:], table[9:])]
    assert VERSION == 2
    np.testing.assert_allclose(said, [[0.33198, 0.33426, 0.36564], [0.32820, 0.33576, 0.36375]], atol=5e-5)


def test_a_patient_is_answered_alike_alone_and_new_patients_change_nothing(
    planted: tuple[Patients, np.ndarray],
) -> None:
    patients, is_right = planted
    blocks = read_blocks(patients, SPACING, is_right)
    model = fit_linear_images(blocks[:100], patients.labels[:100], patients.tabular[:100])[1]
    together = model.predict(blocks[100:], patients.tabular[100:])
    alone = [float(model.predict(blocks[i : i + 1], patients.tabular[i : i + 1])[0]) for i in range(100, 110)]
    np.testing.assert_allclose(alone, together[:10], rtol=1e-4)


def test_the_table_is_used_beside_the_image(tmp_path: Path) -> None:
    patients, is_right = stored(tmp_path, 200, contrast=0)
    table = patients.tabular + 0.6 * patients.labels[:, None]
    blocks = read_blocks(patients, SPACING, is_right)
    assert auc(patients, blocks, patients.labels) < 0.65
    assert auc(patients, blocks, patients.labels, table) > 0.8


def test_what_the_table_explains_is_no_noise_to_the_images() -> None:
    """Images are learned better beside a table that explains the labels, also if the answer leaves the table out."""
    rng = np.random.default_rng(5)
    gains = []
    for _ in range(5):
        blocks = rng.normal(size=(1200, 1, 4, 3, 3)).astype(np.float32)
        table = rng.normal(size=(1200, 1)) * 4
        labels = (blocks[:, 0, 0, 1, 1] + table[:, 0] + rng.logistic(size=1200) > 0).astype(int)
        beside, without = (
            fit_linear_images(blocks[:200], labels[:200], known[:200])[0] for known in (table, np.zeros_like(table))
        )
        gains.append(np.subtract(*(roc_auc_score(labels, each.predict(blocks)) for each in (beside, without))))
    assert np.mean(gains) > 2 * np.std(gains, ddof=1) / np.sqrt(len(gains))


@pytest.mark.parametrize("across", [1, 4, 5])
def test_it_is_a_ridge_regression_of_the_affected_half_and_the_differences(across: int) -> None:
    rng = np.random.default_rng(2)
    blocks, table = rng.normal(50, 20, (40, 2, across, 2, 2)).astype(np.float32), rng.random((40, 2))
    labels = (blocks[:, 0, 0].mean(axis=(1, 2)) + rng.normal(0, 5, 40) > 50).astype(int)
    alone, with_table = fit_linear_images(blocks, labels, table)
    blocks = blocks.astype(float)
    centre, spread = blocks.mean(axis=(0, 2, 3, 4), keepdims=True), blocks.std(axis=(0, 2, 3, 4), keepdims=True)
    shown = np.arcsinh((blocks - centre) / spread)
    columns = [shown[:, :, x].reshape(40, -1) for x in range((across + 1) // 2)]
    columns += [(shown[:, :, x] - shown[:, :, across - 1 - x]).reshape(40, -1) for x in range(across // 2)]
    features = np.hstack(columns)
    principal = PCA(min(39, features.shape[1]), whiten=True, svd_solver="full").fit_transform(features)
    design = np.hstack([principal, (table - table.mean(axis=0)) / table.std(axis=0)])
    ridge = LogisticRegression(C=0.03, tol=1e-8).fit(design, labels)
    np.testing.assert_allclose(with_table.predict(blocks, table), ridge.predict_proba(design)[:, 1], atol=1e-4)
    assert alone.predict(blocks).mean() == pytest.approx(labels.mean(), abs=1e-6)
    images = principal @ ridge.coef_[0, : principal.shape[1]]
    np.testing.assert_allclose(np.diff(logit(alone.predict(blocks))), np.diff(images), atol=1e-3)


def test_a_volume_that_somebody_lacks_is_left_out(tmp_path: Path) -> None:
    patients, is_right = stored(tmp_path, 4, contrast=0)
    (patients.volumes[2] / "ncct.npy").unlink()
    assert read_blocks(patients, SPACING, is_right).shape[1] == 1
