"""Auxiliary heads: what the table knows and the picture shows, learned from the pooled image features.

They exist in training only, to make the image network look at the occlusion (multitask learning: Caruana 1997).
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from rlvo.models.classifier import Classifier


class AuxiliaryHeads(nn.Module):
    """One logit for each encoded feature of the targets: the one-hot of a level, or a volume scaled to 0–1.

    The heads read the features before the fusion, which would tell them the answers.

    Args:
        channels: C, of the pooled features.
        targets: the encoded features of each of P predictors.
    """

    columns: Tensor
    """[K]: the features of all targets."""
    membership: Tensor
    """[K, P]: 1 / (number of the target's features) where a feature belongs to a target, else 0."""

    def __init__(self, channels: int, targets: Mapping[str, Sequence[int]]) -> None:
        super().__init__()
        self.targets = {name: tuple(columns) for name, columns in targets.items()}
        columns = [column for own in targets.values() for column in own]
        shares = [torch.full((len(own), 1), 1 / len(own)) for own in targets.values()]
        self.register_buffer("columns", torch.tensor(columns), persistent=False)
        self.register_buffer("membership", torch.block_diag(*shares), persistent=False)  # type: ignore[no-untyped-call]
        self.linear = nn.Linear(channels, len(columns))

    def forward(self, pooled: Tensor) -> Tensor:
        """[B, C] → logits [B, K]."""
        logits: Tensor = self.linear(pooled)
        return logits

    def answer(self, classifier: Classifier, volume: Tensor, tabular: Tensor, moves: Tensor | None = None) -> Tensor:
        """The classifier's logit and those of the heads, [B, 1 + K]; its arguments are the classifier's."""
        features = classifier.features(volume, tabular, moves)
        return torch.cat([classifier.fuse(features, tabular)[:, None], self(classifier.pool(features))], dim=1)

    def loss(self, logits: Tensor, tabular: Tensor, counts: Tensor) -> Tensor:
        """The cross entropy of each target, summed over patients, [P].

        Args:
            logits: [B, K].
            tabular: encoded table [B, T].
            counts: how much each patient counts for each target, [B, P]; 0 if the value is imputed.
        """
        truth = tabular.index_select(1, self.columns)
        losses = binary_cross_entropy_with_logits(logits.float(), truth, reduction="none")
        return (losses @ self.membership * counts).sum(dim=0)

    def known(self, measured: Tensor) -> Tensor:
        """Which targets the patients have values of, 0 or 1 [N, P], from the same of the encoded table, [N, T]."""
        return measured[:, [columns[0] for columns in self.targets.values()]].float()
