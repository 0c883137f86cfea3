"""Merging members by mean, vote and STAPLE, for one class, exclusive classes and regions; pooling several networks."""

import numpy as np
import pytest
import SimpleITK
import torch
from class_kinds import KINDS
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from diffseg.config import Config
from diffseg.labels.labels import Labels
from diffseg.prediction.merging import merge_members, pool_predictions, staple

EVALUATIONS = torch.ones(())
UNDECIDED = 200


def members(kind, count=5, size=12, seed=0):
    """Draw the members' probabilities [count, K, size, size]: smooth, so that members often agree."""
    draw = torch.Generator().manual_seed(seed)
    channels = {"binary": 1, "classes": 3, "regions": 3}[kind]
    common = (
        torch.randn(1, channels, size // 4, size // 4, generator=draw).repeat_interleave(4, 2).repeat_interleave(4, 3)
    )
    logits = 2 * common + torch.randn(count, channels, size, size, generator=draw)
    return logits.softmax(1)[:, 1:] if kind == "classes" else logits.sigmoid()


def one_hot(numbers, classes):
    return torch.stack([torch.from_numpy(numbers == k) for k in range(1, classes + 1)], 1).float()


@pytest.mark.parametrize("merge", ["mean", "vote", "staple"])
@pytest.mark.parametrize("kind", KINDS)
def test_members_are_merged_to_probabilities_and_masks(kind, merge, tiny):
    config = tiny(**KINDS[kind], inference__merge=merge)
    labels, probabilities = Labels.of(config), members(kind)
    found = merge_members(3, probabilities, EVALUATIONS, config)
    assert found.index == 3
    assert found.mean.shape == found.sd.shape == probabilities.shape[1:]
    assert found.masks.shape == probabilities.shape
    assert found.masks.dtype == torch.bool
    assert ((found.mean >= 0) & (found.mean <= 1)).all()
    assert (found.sd <= 0.5 + 1e-6).all()
    if kind == "classes":
        assert (found.mean.sum(0) <= 1 + 1e-5).all()
        assert (found.masks.sum(1) <= 1).all()
        assert (labels.decide(found.mean, 0.5).sum(0) <= 1).all()
    values = {"mean": probabilities, "vote": found.masks.float()}
    if merge in values:
        assert torch.equal(found.mean, values[merge].mean(0))
        assert torch.equal(found.sd, values[merge].std(0, correction=0))


@pytest.mark.parametrize("merge", ["mean", "vote", "staple"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_the_members_does_not_matter(kind, merge, tiny):
    config, probabilities = tiny(**KINDS[kind], inference__merge=merge), members(kind)
    found = [
        merge_members(0, probabilities[list(order)], EVALUATIONS, config)
        for order in ((0, 1, 2, 3, 4), (3, 0, 4, 2, 1))
    ]
    assert torch.allclose(found[0].mean, found[1].mean, atol=1e-3)


@pytest.mark.parametrize("merge", ["mean", "vote"])
@pytest.mark.parametrize("kind", KINDS)
def test_pooled_networks_are_one_ensemble_of_all_their_members(kind, merge, tiny):
    config, probabilities = tiny(**KINDS[kind], inference__merge=merge), members(kind, 6)
    whole = merge_members(0, probabilities, EVALUATIONS, config)
    pooled = pool_predictions([merge_members(0, part, EVALUATIONS, config) for part in probabilities.split(2)])
    assert torch.allclose(pooled.mean, whole.mean, atol=1e-6)
    assert torch.allclose(pooled.sd, whole.sd, atol=1e-4)
    assert torch.equal(pooled.masks, whole.masks)


def labels_of(kind):
    return Labels.of(
        Config().with_leaves({key.replace("__", "."): value for key, value in KINDS[kind].items()}).resolved()
    )


CLASSES, REGIONS, BINARY = (labels_of(kind) for kind in ("classes", "regions", "binary"))
NUMBERS = st.tuples(st.integers(2, 6), st.integers(1, 9), st.integers(2, 9)).flatmap(
    lambda shape: arrays.arrays(np.uint8, shape, elements=st.integers(0, 2))
)


@given(NUMBERS)
def test_staple_of_classes_decides_as_simpleitk_does(numbers):
    """SimpleITK reports labels alone, and these only where no two are equally probable. Its priors are the shares of votes."""
    if (numbers == numbers[:1]).all():
        return
    present = np.unique(numbers)
    own = np.searchsorted(present, numbers).astype(np.uint8)  # without gaps, as SimpleITK's labels are
    estimate = SimpleITK.MultiLabelSTAPLEImageFilter()
    estimate.SetLabelForUndecidedPixels(UNDECIDED)
    places = SimpleITK.GetArrayFromImage(estimate.Execute([SimpleITK.GetImageFromArray(one) for one in own]))
    found = staple(one_hot(numbers, 2), CLASSES).double()
    background = 1 - found.sum(0)
    assert (background >= -1e-5).all()
    assert ((found >= 0) & (found <= 1)).all()
    best = torch.cat([background[None], found])
    first, second = best.topk(2, dim=0).values
    clear = ((first - second) > 1e-3).numpy() & (places != UNDECIDED)
    assert np.array_equal(best.argmax(0).numpy()[clear], present[places.clip(max=len(present) - 1)][clear])


def truth():
    """Three areas: background above, and classes 1 and 2 below."""
    found = torch.zeros(24, 24, dtype=torch.long)
    found[8:, :12], found[8:, 12:] = 1, 2
    return found.numpy()


def noisy(numbers, share, seed):
    draw = np.random.default_rng(seed)
    return np.where(draw.random(numbers.shape) < share, draw.integers(0, 3, numbers.shape), numbers)


def decided(numbers, labels=CLASSES):
    found = staple(one_hot(np.stack(numbers), 2), labels)
    return (labels.decide(found, 0.5).long() * torch.tensor([1, 2])[:, None, None]).sum(0).numpy()


def voted(numbers):
    votes = np.stack([(np.stack(numbers) == k).sum(0) for k in range(3)])
    return votes.argmax(0)


@pytest.mark.parametrize("wrong", [[0, 2, 1], [1, 2, 0], [2, 0, 1]], ids=str)
def test_staple_of_classes_trusts_members_that_agree_with_each_other(wrong):
    """Two of five members take each class for another one, in the same way."""
    numbers = [*(noisy(truth(), 0.1, seed) for seed in range(3)), *[np.array(wrong)[truth()]] * 2]
    right, votes = ((own == truth()).mean() for own in (decided(numbers), voted(numbers)))
    assert right > 0.94
    assert right > votes + 0.05


@pytest.mark.parametrize("instead", [0, 1])
@pytest.mark.parametrize("blind", [1, 2])
def test_members_that_lack_a_class_do_not_vote_it_down(blind, instead):
    lacking = np.where(truth() == 2, instead, truth())
    numbers = [*(noisy(truth(), 0.1, seed) for seed in range(5 - blind)), *[lacking] * blind]
    right, votes = ((own == truth()).mean() for own in (decided(numbers), voted(numbers)))
    assert right >= max(votes, 0.94)


def test_a_class_that_one_member_alone_marks_is_not_believed():
    alone = truth()
    alone[:4] = 2
    others = [np.where(noisy(truth(), 0.02, seed) == 2, 0, truth()) for seed in range(4)]
    found = staple(one_hot(np.stack([alone, *others]), 2), CLASSES)
    assert float(found[1].max()) < 1e-6
    assert torch.isfinite(found).all()


@pytest.mark.parametrize(
    "numbers", [[truth()] * 3, [np.zeros((5, 7), int)] * 2, [truth()]], ids=["classes", "empty", "one"]
)
def test_members_that_agree_are_returned(numbers):
    masks = one_hot(np.stack(numbers), 2)
    assert torch.equal(staple(masks, CLASSES), masks[0])


def test_staple_of_regions_is_that_of_each_region():
    masks = (members("regions") > 0.5).float()
    found = staple(masks, REGIONS)
    for k in range(3):
        assert torch.equal(found[k], staple(masks[:, k : k + 1], BINARY)[0])


def test_staple_of_one_class_trusts_members_that_agree_with_each_other():
    truth = torch.zeros(16, 16)
    truth[4:12, 4:12] = 1
    draw = torch.Generator().manual_seed(0)
    good = [(truth + (torch.rand(16, 16, generator=draw) < 0.03)) % 2 for _ in range(3)]
    bad = [1 - truth] * 2  # two members of five are wrong everywhere: the mean is 0.6 at best
    found = staple(torch.stack(good + bad)[:, None], BINARY)[0]
    assert torch.equal(found > 0.5, truth.bool())
    assert (found - truth).abs().max() < 0.05
    assert torch.equal(staple(torch.stack([truth, truth])[:, None], BINARY)[0], truth)
