"""The tree's joints and mirror, and where an occlusion acts."""

import numpy as np
import pytest

from rlvo.synthetic.vessels import SEGMENTS, Lesion, OccludedTree, collateral_filling, draw_tree, occlude


def occluded(site: str, side: str = "right", z_cta: float = 0.0, collateral: float = 0.4) -> OccludedTree:
    rng = np.random.default_rng(4)
    return occlude(draw_tree(0.25, rng), Lesion(side, site, z_cta, 0.0), collateral, rng)


def names(tree: OccludedTree, where: np.ndarray) -> set[str]:
    return set(tree.tree.segment[where])


def test_branches_leave_where_their_parent_ends() -> None:
    tree = draw_tree(0.25, np.random.default_rng(0))
    for side in (1, -1):
        for segment in SEGMENTS:
            if segment.parent:
                child = tree.position[(tree.segment == segment.name) & (tree.side == side)][0]
                parent = tree.position[(tree.segment == segment.parent) & (tree.side == side)][-1]
                assert np.linalg.norm(child - parent) < 0.5


def test_sides_are_ras_and_wobble_apart() -> None:
    tree = draw_tree(1.0, np.random.default_rng(0))
    middle_cerebral = np.isin(tree.segment, ["M1", "M2a", "M2b"])
    assert (tree.position[(tree.side == 1) & middle_cerebral, 0] > 4).all()
    assert (tree.position[(tree.side == -1) & middle_cerebral, 0] < -4).all()
    right, left = (tree.position[(tree.side == side) & (tree.segment == "M1")].mean(axis=0) for side in (1, -1))
    np.testing.assert_allclose(right, left * (-1, 1, 1), atol=3)
    assert not np.allclose(right, left * (-1, 1, 1))


@pytest.mark.parametrize(
    ("site", "affected"),
    [
        ("TICA", {"ICA", "M1", "M2a", "M2b", "M3a", "M3b", "M3c", "M3d", "A1"}),
        ("M1", {"M1", "M2a", "M2b", "M3a", "M3b", "M3c", "M3d"}),
        ("M2", {"M2a", "M3a", "M3b"}),
    ],
)
def test_only_what_lies_beyond_is_affected_on_that_side(site: str, affected: set[str]) -> None:
    tree = occluded(site, side="left")
    dim = tree.contrast < 1
    assert names(tree, dim) == affected
    assert set(tree.tree.side[dim]) == {-1}
    untouched = tree.tree.side != -1
    assert (tree.lumen[untouched] == 1).all()


@pytest.mark.parametrize("site", ["TICA", "M1", "M2"])
def test_clot_is_ten_millimetres_of_trunk_without_contrast(site: str) -> None:
    tree = occluded(site)
    assert tree.tree.step[tree.clot].sum() == pytest.approx(10, abs=0.5)
    assert (tree.contrast[tree.clot] == 0).all()
    assert names(tree, tree.clot) <= {"ICA", "M1", "M2a", "M3a"}
    beyond = (tree.beyond >= 0) & ~tree.clot
    assert set(tree.contrast[beyond]) == {0.4}


def test_the_taper_runs_out_at_the_occlusion_and_is_longer_with_z_cta() -> None:
    def half_length(z_cta: float) -> float:
        tree = occluded("TICA", z_cta=z_cta)
        stub = (tree.tree.segment == "ICA") & (tree.tree.side == 1) & (tree.beyond < 0)
        lumen = tree.lumen[stub]
        assert (np.diff(lumen) <= 1e-12).all()
        assert lumen[0] == 1
        assert lumen[-1] < 0.1
        return float(-tree.beyond[stub][lumen < 0.5].min())

    assert half_length(0.0) == pytest.approx(4, abs=0.3)
    assert half_length(1.0) == pytest.approx(4 * np.exp(0.4), abs=0.3)


def test_collateral_filling_and_the_lumen_beyond_the_clot() -> None:
    tree = occluded("M2", collateral=0.4)
    beyond = tree.beyond >= 0
    assert set(tree.lumen[beyond & (tree.tree.segment == "M2a")]) == {0.8}
    assert set(tree.lumen[beyond & (tree.tree.segment == "M3b")]) == {0.75 + 0.25 * 0.4}
    assert collateral_filling(0.4 / 1.5) == pytest.approx(0.5)
    assert collateral_filling(1) == pytest.approx(1 / (1 + np.exp(-1.1)))
