"""The networks of a model: loaded when they are first needed, and asked about one patient at a time."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from rlvo.ensemble.spec import MemberSpec
from rlvo.models.classifier import Classifier
from rlvo.models.streamlining import streamline
from rlvo.training.dataset import stack_channels
from rlvo.training.member import Precision, load_classifier, predict_probabilities
from rlvo.training.missing import blank_volumes

MAX_KEPT_BYTES = 2 << 30
"""Members stay in memory until their weights reach this size; the others are read again for every patient."""


class Members:
    """Trained members by name.

    Args:
        weights: gives the safetensors file of a member, and the member's name in the file if it holds several.
    """

    def __init__(self, weights: Callable[[str], tuple[Path, str | None]]) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._weights = weights
        self.before_each: Callable[[], None] = lambda: None
        """Called before each member is asked."""
        self._kept: dict[str, Classifier] = {}
        self._kept_bytes = 0

    def probabilities(
        self,
        members: Mapping[str, MemberSpec],
        volumes: Mapping[str, np.ndarray],
        features: Mapping[int, np.ndarray],
        precision: Precision = "float32",
    ) -> dict[str, float]:
        """The probability of rLVO by member for one patient; NaN or infinite if a network overflows.

        Members that look at the same volumes share one input, which is moved to the device once.

        Args:
            members: the members to ask, by name.
            volumes: prepared volumes [x, y, z], by name.
            features: the encoded table row [1, T], by fold.
        """
        by_channels: dict[tuple[tuple[str, ...], tuple[str, ...]], list[str]] = defaultdict(list)
        for name, member in members.items():
            by_channels[member.configuration.model.channels, member.absent].append(name)
        result: dict[str, float] = {}
        for (channels, absent), names in by_channels.items():
            stacked = torch.from_numpy(stack_channels(volumes, channels, absent))[None].to(self.device, torch.float32)
            for name in names:
                self.before_each()
                tabular = features[members[name].fold]
                classifier = self.classifier(name, members[name], tabular.shape[1])
                shown = blank_absent(stacked, classifier, members[name])
                result[name] = float(predict_probabilities(classifier, shown, tabular, precision=precision)[0])
        return {name: result[name] for name in members}

    def classifier(self, name: str, member: MemberSpec, tabular_features: int) -> Classifier:
        """The member's network on the device, ready to predict; `tabular_features`: width of its encoded table."""
        if name in self._kept:
            return self._kept[name]
        path, within = self._weights(name)
        classifier = load_classifier(path, member.configuration.model, tabular_features, member=within)
        classifier = streamline(classifier).to(self.device)
        size = sum(tensor.nbytes for tensor in classifier.state_dict().values())
        if self._kept_bytes + size <= MAX_KEPT_BYTES:
            self._kept[name] = classifier
            self._kept_bytes += size
        return classifier


def blank_absent(stacked: torch.Tensor, classifier: Classifier, member: MemberSpec) -> torch.Tensor:
    """A patient's volumes [1, C, X, Y, Z] as the member is shown them: without those that it is asked without."""
    if not member.absent:
        return stacked
    lost = torch.tensor([[name in member.absent for name in member.configuration.model.channels]])
    return blank_volumes(stacked, classifier.channel_mean, lost)
