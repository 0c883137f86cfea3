import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffseg.config import Augment, Config
from diffseg.errors import ConfigError
from diffseg.randomness import generator
from diffseg.training.augmentation import apply_affine, apply_symmetry, augment_batch, jitter_colours


def pictures(count=4, size=16):
    images = torch.rand(count, 3, size, size, generator=generator("cpu", 0)) * 2 - 1
    return images, (images[:, :1] > 0).float()


@pytest.mark.parametrize(("flips", "views"), [("horizontal", 2), ("both", 4), ("symmetries", 8)])
def test_flips_turn_images_and_masks_alike_in_every_view(flips, views):
    square = torch.arange(9.0).view(1, 1, 3, 3).repeat(400, 1, 1, 1)
    images, masks = augment_batch(square, square + 100, Augment(flips=flips), generator("cpu", 0))
    assert torch.equal(images + 100, masks)
    found = {tuple(image.flatten().tolist()) for image in images}
    expected = {
        tuple(mirrored.flatten().tolist())
        for k in range(4)
        for turned in [torch.rot90(square[0], k, (1, 2))]
        for mirrored in (turned, turned.flip(-1))
    }
    assert len(found) == views
    assert found <= expected


def test_every_symmetry_of_a_square_is_undone_by_its_inverse():
    square, views = torch.rand(8, 2, 5, 5), torch.arange(8)
    turned = apply_symmetry(square[:1].repeat(8, 1, 1, 1), views)
    assert len({tuple(x.flatten().tolist()) for x in turned}) == 8
    assert torch.equal(turned[0], square[0])
    assert torch.equal(apply_symmetry(apply_symmetry(square, views), views, inverse=True), square)


def test_rotation_by_a_quarter_is_exact_and_by_zero_the_identity():
    images, masks = pictures(2)
    angles, ones = torch.tensor([0.0, math.pi / 2]), torch.ones(2)
    turned, turned_masks = apply_affine(images, masks, angles, ones)
    assert torch.allclose(turned[0], images[0], atol=1e-5)
    assert torch.allclose(turned[1], torch.rot90(images[1], 1, (1, 2)), atol=1e-5)
    assert torch.equal(turned_masks[1], torch.rot90(masks[1], 1, (1, 2)))


def test_zoom_magnifies():
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 12:20, 12:20] = 1
    _, zoomed = apply_affine(mask, mask, torch.zeros(1), torch.tensor([2.0]))
    assert float(zoomed.sum()) == pytest.approx(4 * float(mask.sum()), rel=0.1)
    assert set(zoomed.unique().tolist()) == {0.0, 1.0}


@given(seed=st.integers(0, 1000), flips=st.sampled_from(["none", "symmetries"]))
def test_augmented_masks_hold_no_other_numbers(seed, flips):
    """Numbers of labels are not interpolated, nor are those of ignored pixels."""
    draw = generator("cpu", seed, "numbers")
    numbers = torch.tensor([0.0, 1, 2, 7, 254, 255])[torch.randint(6, (4, 1, 16, 16), generator=draw)]
    augment = Augment(flips=flips, degrees=180, zoom=(0.5, 2.0))
    _, found = augment_batch(numbers.expand(-1, 3, -1, -1) / 255, numbers, augment, draw)
    assert set(found.unique().tolist()) <= {0.0, 1.0, 2.0, 7.0, 254.0, 255.0}


@given(st.floats(-0.4, 0.4), st.floats(-0.4, 0.4), st.floats(-0.4, 0.4), st.floats(-0.1, 0.1))
def test_jitter_keeps_the_range_and_keeps_grey_images_grey(brightness, contrast, saturation, hue):
    grey = torch.linspace(-1, 1, 64).view(1, 1, 8, 8).repeat(1, 3, 1, 1)
    changes = [torch.tensor([value]) for value in (brightness, contrast, saturation, hue)]
    found = jitter_colours(grey, *changes)
    assert found.abs().max() <= 1
    assert torch.allclose(found, found[:, :1].expand_as(found), atol=2e-3)


def test_jitter_agrees_with_its_closed_forms():
    images, zero = pictures(1)[0] * 0.3, torch.zeros(1)
    unit = (images + 1) / 2
    assert torch.allclose(jitter_colours(images, zero, zero, zero, zero), images, atol=1e-5)
    brighter = jitter_colours(images, torch.tensor([0.2]), zero, zero, zero)
    assert torch.allclose(brighter, (unit * 1.2).clamp(0, 1) * 2 - 1, atol=1e-5)
    flat = jitter_colours(images, zero, torch.tensor([-1.0]), zero, zero)
    assert float(flat.std()) < 1e-5
    plain = jitter_colours(images, zero, zero, torch.tensor([-1.0]), zero)
    assert torch.allclose(plain, plain[:, :1].expand_as(plain), atol=1e-5)
    whole = jitter_colours(images, zero, zero, zero, torch.tensor([1.0]))  # a full turn
    assert torch.allclose(whole, images, atol=1e-4)


def test_each_sample_has_its_own_draws_which_are_reproducible():
    images, masks = (x[:1].repeat(6, 1, 1, 1) for x in pictures())
    everything = Augment(
        flips="both", degrees=22, zoom=(0.75, 1.25), brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1
    )
    first, again = (augment_batch(images, masks, everything, generator("cpu", 3)) for _ in range(2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert len({tuple(x.flatten().tolist()) for x in first[0]}) == 6
    assert set(first[1].unique().tolist()) <= {0.0, 1.0}
    assert first[0].abs().max() <= 1


def test_a_zoom_the_wrong_way_round_is_refused():
    with pytest.raises(ConfigError, match=r"zoom is \[2.0, 1.0\]"):
        Config().with_leaves({"data.augment.zoom": [2.0, 1.0]})
