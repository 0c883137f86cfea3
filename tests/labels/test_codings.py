"""Codings: they invert each other on clean masks, whatever the classes, and their signals are what they say."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from label_kinds import KINDS, draw_numbers, exclusive
from scipy.ndimage import distance_transform_edt

from diffseg.config import Config
from diffseg.diffusion.distance import signed_distance
from diffseg.errors import ConfigError
from diffseg.labels.codings import RANGES
from diffseg.labels.labels import Labels
from diffseg.randomness import generator

COUNTS = {f"{count} exclusive": exclusive(count) for count in (3, 4, 7, 8, 9)}


def configured(kind, coding, **more):
    """Return a configuration with this kind of classes; None if bits meet regions."""
    leaves = {**COUNTS, **KINDS}[kind] | {"diffusion.coding": coding}
    if coding == "bits" and leaves.get("data.regions"):
        return None
    return Config().with_leaves(leaves | {path.replace("__", "."): value for path, value in more.items()})


COMBINATIONS = [
    (kind, coding) for kind in {**KINDS, **COUNTS} for coding in RANGES if configured(kind, coding) is not None
]


@pytest.mark.sampled(5)
@pytest.mark.parametrize(("kind", "coding"), COMBINATIONS)
@given(seed=st.integers(0, 1000))
def test_a_clean_mask_is_decoded_exactly(kind, coding, seed):
    config = configured(kind, coding)
    labels, numbers = Labels.of(config), draw_numbers(config, seed)
    truth, masks = labels.read(numbers), labels.class_masks(numbers[:, 0])
    signal = labels.coding.encode(truth.channels)
    assert signal.shape == (2, labels.channels, 16, 16)
    assert signal.dtype == torch.float32
    low, high = RANGES[coding]
    assert low <= signal.min() <= signal.max() <= high
    assert torch.equal(labels.decode(signal), masks.float())
    assert torch.equal(labels.decide(labels.decode(signal), 0.5), masks)
    assert torch.equal(truth.channels[:, labels.foreground].bool(), masks)


@pytest.mark.parametrize(("kind", "coding"), COMBINATIONS)
@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_any_signal_has_probabilities(kind, coding, scale):
    """They lie in [0, 1], and add up to no more than 1 where classes exclude each other."""
    labels = Labels.of(configured(kind, coding))
    signal = scale * torch.randn(3, labels.channels, 8, 8, generator=generator("cpu", 0, kind))
    found = labels.decode(signal)
    assert found.shape == (3, labels.classes.count, 8, 8)
    assert found.isfinite().all()
    assert 0 <= found.min() <= found.max() <= 1
    if labels.several:
        assert found.sum(1).max() <= 1 + 1e-6
        assert labels.decide(found, 0.5).sum(1).max() <= 1


@pytest.mark.parametrize(("kind", "coding"), [pair for pair in COMBINATIONS if pair[1] != "bits"])
def test_the_mask_of_a_signal_while_denoising_is_that_of_its_probabilities(kind, coding):
    labels = Labels.of(configured(kind, coding))
    low, high = RANGES[coding]
    signal = low + (high - low) * torch.rand(3, labels.channels, 8, 8, generator=generator("cpu", 0, kind))
    decided, masks = labels.coding.decide(signal), labels.decide(labels.decode(signal), 0.5)
    assert torch.equal(decided == 0, ~masks) if not labels.several else torch.equal(decided == 0, ~masks.any(1, True))
    assert all(torch.equal(decided == k, masks[:, k - 1 : k]) for k in range(1, labels.channels) if labels.several)


@pytest.mark.parametrize("count", range(1, 10))
def test_bits_are_the_binary_digits_of_the_class(count):
    labels = Labels.of(Config().with_leaves(exclusive(count) | {"diffusion.coding": "bits"}))
    assert labels.channels == len(f"{count:b}")
    numbers = torch.arange(count + 1.0).view(1, 1, 1, -1)
    digits = labels.coding.encode(labels.read(numbers).channels)[0, :, 0]
    assert [[int(digit) for digit in reversed(f"{n:0{labels.channels}b}")] for n in range(count + 1)] == (
        (digits > 0).int().T.tolist()
    )


@pytest.mark.parametrize(("digits", "expected"), [((0.6, -1), (0.8, 0)), ((0.6, 1), (0, 1)), ((0, 0), (1 / 3, 1 / 3))])
def test_bits_of_a_number_without_a_class_count_for_none(digits, expected):
    """Of two classes and the background, 3 is none: the others share its probability in proportion."""
    labels = Labels.of(Config().with_leaves(exclusive(2) | {"diffusion.coding": "bits"}))
    found = labels.decode(torch.tensor(digits, dtype=torch.float32).view(1, 2, 1, 1))
    assert found.flatten().tolist() == pytest.approx(expected, abs=1e-6)


@given(seed=st.integers(0, 1000), limit=st.sampled_from([1.0, 3.5, 8.0, 20.0]))
def test_the_signed_distance_equals_scipys(seed, limit):
    draw = generator("cpu", seed, "blobs")
    masks = (
        torch.nn.functional.interpolate(torch.rand(2, 2, 5, 5, generator=draw), 24, mode="bilinear") > 0.55
    ).float()
    masks[0, 0], masks[1, 1] = 0, 1  # without a border
    found = signed_distance(masks, limit)
    for mask, distance in zip(masks.view(-1, 24, 24).numpy(), found.view(-1, 24, 24).numpy(), strict=True):
        inside, outside = distance_transform_edt(mask), distance_transform_edt(1 - mask)
        expected = (
            np.where(mask > 0, inside - 0.5, 0.5 - outside) if 0 < mask.mean() < 1 else np.where(mask, limit, -limit)
        )
        assert np.allclose(distance, expected.clip(-limit, limit), atol=1e-5)


def test_pixels_of_an_unknown_class_are_no_border():
    """Of a row 1 1 ? ? 0 0 0, distances are those across the gap; a row with one known class has no border."""
    masks = torch.tensor([[1, 1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0.0]]).view(2, 1, 1, 7)
    valid = torch.tensor([[1, 1, 0, 0, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0]]).view(2, 1, 1, 7).bool()
    found = signed_distance(masks, 8.0, valid)
    assert found[0, 0, 0, [0, 1, 4, 5, 6]].tolist() == [3.5, 2.5, -2.5, -3.5, -4.5]
    assert found[1, 0, 0, :4].tolist() == [8.0] * 4


def test_a_signed_distance_gives_a_probability_by_the_lead_over_the_next_class():
    labels = Labels.of(Config().with_leaves(exclusive(2) | {"diffusion.coding": "sdf"}))
    signal = torch.tensor([-0.2, 0.2, -3.0]).view(1, 3, 1, 1) / 8  # background, first and second class, in px
    assert labels.decode(signal).flatten().tolist() == pytest.approx([0.7, 0.0])


def test_bits_of_regions_are_refused_and_those_of_one_class_are_pm1():
    with pytest.raises(ConfigError, match=r"data\.regions lets classes overlap: take coding pm1, 01 or sdf$"):
        Config().with_leaves(KINDS["regions"] | {"diffusion.coding": "bits"})
    for kind in ("binary", "one"):
        resolved = [configured(kind, coding).resolved() for coding in ("bits", "pm1")]
        assert resolved[0] == resolved[1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_threshold_is_used_unless_classes_compete(kind):
    config = Config().with_leaves(KINDS[kind] | {"inference.threshold": 0.3}).resolved()
    labels = Labels.of(config)
    assert config.inference.threshold == (0.5 if labels.several else 0.3)
    found = torch.rand(4, labels.classes.count, 8, 8, generator=generator("cpu", 0)) / labels.classes.count
    moved = not torch.equal(labels.decide(found, 0.3), labels.decide(found, 0.5))
    assert moved != labels.several


def test_e1_has_no_coding():
    found = {coding: configured("two", coding, experiment="e1").resolved() for coding in RANGES}
    assert len(set(found.values())) == 1
    assert Labels.of(found["bits"]).channels == 3


def test_a_lead_of_a_pixel_is_certain_at_the_smallest_distance_limit():
    labels = Labels.of(
        Config().with_leaves(exclusive(2) | {"diffusion.coding": "sdf", "diffusion.distance_limit": 1.0})
    )
    numbers = torch.tensor([0.0, 1, 1, 2, 2, 0]).view(1, 1, 1, -1)
    signal = labels.coding.encode(labels.read(numbers).channels)
    assert torch.equal(labels.decode(signal), labels.class_masks(numbers[:, 0]).float())
