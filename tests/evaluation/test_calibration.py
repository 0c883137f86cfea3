"""The pooled calibration errors."""

import numpy as np
import pytest
import torch
from evaluated_images import calibration_of, config_of, image_of, random_image
from hypothesis import given, settings
from hypothesis import strategies as st

from diffseg.evaluation.registry import MEASURES

POOLED = ("ece", "ece_top", "ace", "mce")
SEEDS = st.integers(0, 10**6)
BELOW_1 = 1 - 1e-6  # torchmetrics gives a probability of 1 a bin of its own


def pooled(*images):
    """The pooled calibration errors of test images, by name."""
    calibration = calibration_of(*images)
    return {name: MEASURES[name].compute(calibration) for name in POOLED}


def pixels(images, k=0):
    """The probabilities of a class and its masks, of all pixels of the images that count, once a rater."""
    kept = [slice(None) if image.valid is None else image.valid for image in images]
    p = [image.prediction.mean[k][own].flatten() for image, own in zip(images, kept, strict=True) for _ in image.raters]
    y = [mask[own].flatten() for image, own in zip(images, kept, strict=True) for mask in image.raters[:, k]]
    return torch.cat(p), torch.cat(y)


@settings(max_examples=20)
@given(SEEDS, st.integers(1, 3), st.booleans())
def test_the_greatest_error_matches_torchmetrics(seed, raters, ignored):
    from torchmetrics.functional.classification import binary_calibration_error

    images = [random_image(seed + k, raters=raters, ignored=ignored) for k in range(3)]
    p, y = pixels(images)
    expected = binary_calibration_error(p.clamp(max=BELOW_1), y.int(), n_bins=10, norm="max")
    assert pooled(*images)["mce"] == pytest.approx(float(expected), abs=1e-5)


@settings(max_examples=20)
@given(SEEDS, st.integers(1, 4), st.integers(1, 3), st.booleans())
def test_the_error_of_the_top_label_matches_torchmetrics(seed, classes, raters, ignored):
    from torchmetrics.functional.classification import multiclass_calibration_error

    images = [random_image(seed + k, classes, raters, ignored=ignored) for k in range(3)]
    every = [pixels(images, k) for k in range(classes)]
    p, y = (torch.stack(parts, 1) for parts in zip(*every, strict=True))
    p, y = torch.cat([1 - p.sum(1, keepdim=True), p], 1), torch.where(y.any(1), y.byte().argmax(1) + 1, 0)
    expected = multiclass_calibration_error(p.clamp(0, BELOW_1), y, num_classes=classes + 1, n_bins=10)
    assert pooled(*images)["ece_top"] == pytest.approx(float(expected), abs=1e-5)


@settings(max_examples=20)
@given(SEEDS, st.sampled_from([None, 4, 20, 400]))
def test_the_adaptive_error_matches_sklearn(seed, levels):
    """Of probabilities with few values and with many: equal values are in one bin, as in sklearn."""
    from sklearn.calibration import calibration_curve

    images = [random_image(seed + k, size=20) for k in range(3)]
    if levels:
        images = [
            image_of((image.prediction.mean[0] * levels).round() / levels, image.raters[:, 0]) for image in images
        ]
    p, y = (values.numpy() for values in pixels(images))
    truth, confidence = calibration_curve(y, p, n_bins=10, strategy="quantile")
    edges = np.percentile(p, np.linspace(0, 100, 11))
    shares = np.bincount(np.searchsorted(edges[1:-1], p), minlength=10) / len(p)
    expected = (shares[shares > 0] * abs(truth - confidence)).sum()
    assert pooled(*images)["ace"] == pytest.approx(expected, abs=1e-6)


def test_the_adaptive_error_without_ties_is_the_mean_over_bins_of_equally_many_pixels():
    p = (torch.arange(100) + 0.5) / 100
    y = torch.arange(100) % 3 == 0
    gaps = [(p[i : i + 10].mean() - y[i : i + 10].double().mean()).abs() for i in range(0, 100, 10)]
    assert pooled(image_of(p[None], y[None, None]))["ace"] == pytest.approx(float(sum(gaps)) / 10, abs=1e-6)


@settings(max_examples=20)
@given(SEEDS, st.integers(1, 3), st.booleans())
def test_errors_of_classes_are_the_mean_of_their_own(seed, classes, regions):
    config = config_of(classes, data__regions=regions and classes > 1)
    images = [random_image(seed + k, classes, 2, config=config) for k in range(2)]
    single = [
        pooled(*(image_of(image.prediction.mean[k], image.raters[:, k]) for image in images)) for k in range(classes)
    ]
    found = pooled(*images)
    for name in POOLED if regions else ("ece", "ace", "mce"):
        assert found[name] == pytest.approx(sum(one[name] for one in single) / classes, abs=1e-9)


@settings(max_examples=20)
@given(SEEDS, st.integers(1, 4))
def test_errors_are_ordered_and_certain_predictions_have_the_closed_form(seed, classes):
    image = random_image(seed, classes)
    found = pooled(image)
    assert all(0 <= value <= 1 for value in found.values())
    assert found["ece"] <= found["mce"] + 1e-12
    certain = image_of(image.raters[0].float(), image.raters, config_of(classes))
    assert list(pooled(certain).values()) == pytest.approx([0, 0, 0, 0])
    shifted = image_of(image.raters[0].roll(1, -1).float(), image.raters, config_of(classes))
    wrong = (image.raters[0].roll(1, -1) != image.raters[0]).any(0).double().mean()
    assert pooled(shifted)["ece_top"] == pytest.approx(float(wrong))


def test_the_error_of_one_constant_probability_is_its_distance_to_the_share():
    y = torch.arange(100).view(1, 1, 100) < 30
    found = pooled(image_of(torch.full((1, 100), 0.45), y))
    assert found == pytest.approx(dict.fromkeys(POOLED, 0.15), abs=1e-6)
