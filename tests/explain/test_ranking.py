import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr
from support.networks import narrow

from rlvo.explain.attribution import contributions
from rlvo.explain.fixed_image import FixedImages
from rlvo.explain.permutation import permutation_drops
from rlvo.explain.ranking import MEASURES, rank_predictors
from rlvo.explain.shapley import shapley_values
from rlvo.models.classifier import Classifier

TRUTH = {"nihss": 8.0, "age": -5.0, "tmax_gt4_ml": 2.5, "sex": 0.0, "smoking": 0.0}
"""Log odds per unit."""
GROUPS = {predictor: (i,) for i, predictor in enumerate(TRUTH)}


@pytest.mark.slow
def test_each_measure_ranks_the_predictors_by_their_true_coefficients() -> None:
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    table = random.random((400, len(TRUTH)), np.float32)
    logit = (table - 0.5) @ np.array(list(TRUTH.values()))
    label = (random.random(400) < 1 / (1 + np.exp(-logit))).astype(int)
    classifier = Classifier(narrow("resnet18", modality="NCCT", fusion="daft"), len(TRUTH))
    images = FixedImages.of(classifier, torch.randn(400, 1, 16, 16, 16), batch=100)
    assert classifier.modulation is not None
    learned = [*classifier.modulation.parameters(), *classifier.head.parameters()]
    optimizer = torch.optim.Adam(learned, lr=0.01)
    rows, target = torch.from_numpy(table), torch.from_numpy(label).float()
    for _ in range(200):
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(classifier.fuse(images.features, rows), target)
        loss.backward()
        optimizer.step()

    absolute = contributions(classifier.modulation, images.features, table, GROUPS).absolute
    drops = permutation_drops(label, images.logits, table, GROUPS)
    values = [shapley_values(images.of_one(i), table[i], table[300:320], GROUPS) for i in range(20)]
    found = rank_predictors(absolute, drops, pd.DataFrame(values, columns=list(GROUPS)))
    true = [abs(TRUTH[predictor]) for predictor in found.index]
    correlations = {measure: spearmanr(found[measure], true).statistic for measure in MEASURES}
    assert min(correlations.values()) >= 0.8
    assert all(set(found[rank].nsmallest(3).index) == {"nihss", "age", "tmax_gt4_ml"} for rank in MEASURES.values())
