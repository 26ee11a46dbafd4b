import numpy as np
import pytest
import torch

from rlvo.config.model import TrainingConfig
from rlvo.training.epoch import batches, positive_weight


@pytest.mark.parametrize(
    ("patients", "size", "expected"),
    [(9, 4, [4, 4]), (8, 4, [4, 4]), (10, 4, [4, 4, 2]), (3, 1, [1, 1, 1]), (1, 4, [1]), (3, 8, [3])],
)
def test_a_last_batch_of_one_is_left_out(patients: int, size: int, expected: list[int]) -> None:
    parts = batches(torch.arange(patients), size)
    assert [len(part) for part in parts] == expected
    assert torch.equal(torch.cat(parts), torch.arange(sum(expected)))


def test_positive_weight_is_the_ratio_of_the_classes() -> None:
    labels = np.array([0, 0, 0, 1, 0, 1, 0, 0])
    assert positive_weight(labels, TrainingConfig(pos_weight=True)) == 3
    assert positive_weight(labels, TrainingConfig()) == 1
