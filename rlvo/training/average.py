"""The moving average of a network's weights over the steps of its training."""

from copy import deepcopy

import torch

from rlvo.models.classifier import Classifier


class WeightAverage:
    """An exponential moving average of a network: weights, and batch norm's statistics with them.

    The decay is at most (1 + t)/(10 + t) after t steps, so that the first steps, close to the random weights, are soon
    forgotten (as TensorFlow's ExponentialMovingAverage does). Whatever is not a fraction is copied: torch's own
    average would truncate it.

    Args:
        network: what is trained; its average starts as a copy.
        decay: per step, at most; in (0, 1).

    Attributes:
        network: the average, ready to be validated and saved.
        steps: how many steps it is over.
    """

    def __init__(self, network: Classifier, decay: float) -> None:
        self.network, self.steps, self._decay = deepcopy(network), 0, decay

    @torch.no_grad()
    def update(self, network: Classifier) -> None:
        """Take the network's weights after a step into the average."""
        decay = min(self._decay, (1 + self.steps) / (10 + self.steps))
        current = network.state_dict()
        for name, average in self.network.state_dict().items():
            if average.is_floating_point():
                average.lerp_(current[name], 1 - decay)
            else:
                average.copy_(current[name])
        self.steps += 1
