"""Losses other than the plain squared error, compared to libraries."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from label_kinds import KINDS, draw_numbers
from monai.losses import DiceCELoss, DiceLoss
from scipy.ndimage import distance_transform_edt

from diffseg.config import Config, Diffusion
from diffseg.diffusion.distance import squared_distance_to_border
from diffseg.diffusion.losses import LOSSES
from diffseg.diffusion.schedules import log_snr
from diffseg.errors import ConfigError
from diffseg.experiments import build_experiment
from diffseg.labels.labels import Labels
from diffseg.randomness import generator


def blobs(seed, count=3, size=24):
    draw = generator("cpu", seed, "blobs")
    coarse = torch.rand(count, 1, 5, 5, generator=draw)
    return (torch.nn.functional.interpolate(coarse, size, mode="bilinear") > 0.55).float()


@given(seed=st.integers(0, 1000), reach=st.integers(1, 30))
def test_distances_to_the_border_equal_scipys(seed, reach):
    masks = blobs(seed)
    found = squared_distance_to_border(masks, reach)
    for mask, squared in zip(masks[:, 0].numpy(), found[:, 0].numpy(), strict=True):
        if 0 < mask.mean() < 1:
            expected = (distance_transform_edt(mask) + distance_transform_edt(1 - mask)) ** 2
            assert np.allclose(squared, np.where(expected > reach**2 + 1e-6, np.inf, expected))
        else:
            assert np.isinf(squared).all()


def test_boundary_weights_fall_off_from_the_border_and_are_1_in_blank_masks():
    masks = torch.zeros(2, 1, 1, 64)
    masks[0, ..., 32:] = 1
    ones = torch.ones_like(masks)
    config = Config(diffusion=Diffusion(boundary_weight=4.0, boundary_width=3.0))
    labels = Labels.of(config)
    weights = LOSSES["boundary"](ones, 0 * ones, ones, labels.read(masks), labels, config.diffusion)
    distance = torch.cat([torch.arange(32, 0, -1), torch.arange(1, 33)]).float()
    expected = 1 + 4 * (-(distance**2) / 18).exp() * (distance <= 9)
    assert torch.allclose(weights[0, 0, 0], expected)
    assert torch.equal(weights[1], ones[1])


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_cross_entropies_of_a_batch_equal_torchs_and_monais(reduction, tiny):
    masks, images = blobs(0, size=16), torch.zeros(3, 3, 16, 16)
    logits = torch.randn(masks.shape, generator=generator("cpu", 0))
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    for loss, expected in (
        ("cross-entropy", torch.nn.functional.binary_cross_entropy_with_logits(logits, masks)),
        ("dice-cross-entropy", DiceCELoss(sigmoid=True)(logits, masks)),
    ):
        config = tiny(diffusion__loss=loss, diffusion__activation="sigmoid", diffusion__reduction=reduction)
        found = build_experiment(config).loss_at(
            lambda x_t, t, image: logits, images, masks, t, torch.randn_like(masks)
        )
        assert float(found) == pytest.approx(float(expected) * (256 if reduction == "sum" else 1), rel=1e-5)


@pytest.mark.parametrize("kind", ["two", "five", "regions"])
@pytest.mark.parametrize("experiment", ["e1", "e2"])
def test_losses_of_classes_equal_torchs_and_monais(kind, experiment, tiny):
    """Dice is the mean over the classes without the background; the cross-entropy is categorical where classes compete."""
    leaves = {path.replace(".", "__"): value for path, value in KINDS[kind].items()}
    config = tiny(
        experiment=experiment, diffusion__loss="dice-cross-entropy", diffusion__activation="sigmoid", **leaves
    )
    labels, numbers, images = Labels.of(config), draw_numbers(config, count=3), torch.zeros(3, 3, 16, 16)
    logits = torch.randn(3, labels.channels, 16, 16, generator=generator("cpu", 0))
    channels, t = labels.read(numbers).channels, torch.full((3,), 0.5, dtype=torch.float64)
    if labels.several:
        entropy = torch.nn.functional.cross_entropy(logits, numbers[:, 0].long())
        overlap = DiceLoss(softmax=True, include_background=False)(logits, channels)
    else:
        entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, channels)
        overlap = DiceLoss(sigmoid=True)(logits, channels)
    network, expected = lambda x_t, t, image: logits, float(entropy + overlap)
    if experiment == "e1":
        found = build_experiment(config).loss(network, images, numbers, generator("cpu", 0))
    else:
        found = build_experiment(config).loss_at(network, images, numbers, t, torch.randn_like(logits))
        config = tiny(diffusion__loss="cross-entropy", diffusion__activation="sigmoid", **leaves)
        alone = build_experiment(config).loss_at(network, images, numbers, t, torch.randn_like(logits))
        assert float(alone) == pytest.approx(float(entropy), rel=1e-5)
    assert float(found) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("count", [2, 5])
def test_the_cross_entropy_of_bits_is_that_of_each_digit(count, tiny):
    classes = {f"class {number}": number for number in range(1, count + 1)}
    config = tiny(
        data__classes=classes,
        diffusion__coding="bits",
        diffusion__loss="cross-entropy",
        diffusion__activation="sigmoid",
    )
    labels, numbers = Labels.of(config), draw_numbers(config, count=3)
    logits = torch.randn(3, labels.channels, 16, 16, generator=generator("cpu", 0))
    digits = torch.cat([(numbers.long() >> digit) & 1 for digit in range(labels.channels)], dim=1).float()
    t = torch.full((3,), 0.5, dtype=torch.float64)
    found = build_experiment(config).loss_at(
        lambda x_t, t, image: logits, torch.zeros(3, 3, 16, 16), numbers, t, torch.randn_like(logits)
    )
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, digits)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_the_boundary_between_classes_weighs_in_all_channels(tiny):
    """Each pixel's distance is that to the nearest one of another class, whichever it is."""
    config = tiny(data__classes={"a": 1, "b": 2}, diffusion__loss="boundary", diffusion__boundary_width=1.0)
    labels, numbers = Labels.of(config), torch.zeros(1, 1, 1, 12)
    numbers[..., 4:8], numbers[..., 8:] = 1, 2
    ones = torch.ones(1, 3, 1, 12)
    weights = LOSSES["boundary"](ones, 0 * ones, ones, labels.read(numbers), labels, config.diffusion)[0, :, 0]
    distance = torch.tensor([4, 3, 2, 1, 1, 2, 2, 1, 1, 2, 3, 4.0])
    expected = 1 + config.diffusion.boundary_weight * (-(distance**2) / 2).exp() * (distance <= 3)
    assert torch.allclose(weights, expected.expand(3, -1))


def test_cross_entropies_are_weighted_like_the_squared_error(tiny):
    masks, images = blobs(0, count=1, size=16), torch.zeros(1, 3, 16, 16)
    network = lambda x_t, t, image: torch.full_like(x_t, 0.3)  # noqa: E731
    t = torch.tensor([0.6], dtype=torch.float64)
    for loss in LOSSES:
        losses = {}
        for weighting in ("uniform", "snr+1"):
            config = tiny(diffusion__loss=loss, diffusion__activation="sigmoid", diffusion__weighting=weighting)
            losses[weighting] = float(
                build_experiment(config).loss_at(network, images, masks, t, torch.zeros_like(masks))
            )
        factor = 1 + float(log_snr(t, config.diffusion).exp())
        assert losses["snr+1"] == pytest.approx(factor * losses["uniform"], rel=1e-5)


@pytest.mark.parametrize("loss", ["cross-entropy", "dice-cross-entropy"])
@pytest.mark.parametrize(("target", "activation"), [("epsilon", "sigmoid"), ("v", "sigmoid"), ("x0", "tanh")])
def test_cross_entropies_without_logits_are_refused(loss, target, activation):
    leaves = {"diffusion.loss": loss, "diffusion.target": target, "diffusion.activation": activation}
    with pytest.raises(ConfigError, match=r"set diffusion.target=x0 and diffusion.activation=sigmoid$"):
        Config().with_leaves(leaves)


def test_e3_and_e4_keep_the_squared_error():
    leaves = {"diffusion.loss": "dice-cross-entropy", "diffusion.target": "x0", "diffusion.activation": "sigmoid"}
    for experiment in ("e3", "e4"):
        assert Config().with_leaves(leaves | {"experiment": experiment}).resolved().diffusion.loss == "mse"
