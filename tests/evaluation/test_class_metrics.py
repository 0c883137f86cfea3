"""Metrics of several classes, and of images with ignored pixels."""

import math
from dataclasses import replace

import pytest
import torch
from evaluated_images import calibration_of, compute, config_of, image_of, measure_one, random_image
from hypothesis import given, settings
from hypothesis import strategies as st

from diffseg.evaluation.confusion import confusion_rows, count_confusions
from diffseg.evaluation.images import TestImages
from diffseg.evaluation.registry import MEASURES
from diffseg.labels.classes import Classes

POOLED = [metric for metric in MEASURES.values() if metric.pooled]
SEEDS = st.integers(0, 10**6)


def all_metrics(image):
    """The metrics of a test image, and the pooled ones of it alone, by name: lists of the rows' values."""
    calibration = calibration_of(image)
    pooled = {metric.name: [float(metric.compute(calibration))] for metric in POOLED}
    return pooled | {name: values.tolist() for name, values in measure_one(image).items()}


def same(a, b):
    return a.keys() == b.keys() and all(a[name] == pytest.approx(b[name], abs=1e-9, nan_ok=True) for name in a)


def test_the_nll_of_exclusive_classes_is_the_cross_entropy():
    image = random_image(3, classes=3, raters=2, config=config_of(3, experiment="e1"))
    p = image.prediction.mean.double()
    p = torch.cat([1 - p.sum(0, keepdim=True), p]).clamp(1e-6, 1 - 1e-6).log()
    truth = torch.where(image.raters.any(1), image.raters.byte().argmax(1) + 1, 0)
    expected = torch.stack([torch.nn.functional.nll_loss(p[None], one[None]) for one in truth]).mean()
    assert compute("nll", image) == pytest.approx(float(expected), rel=1e-9)


def test_the_nll_of_one_class_is_the_categorical_one_of_class_and_background():
    from diffseg.evaluation.metrics import categorical_nll, nll

    image = random_image(4)
    p, mask = image.prediction.mean, image.raters[0]
    for members in (None, 5):
        assert float(categorical_nll(p, mask, members)) == pytest.approx(float(nll(p[0], mask[0], members)), rel=1e-6)


def test_the_nll_of_regions_is_the_mean_of_their_own():
    regions = config_of(2, data__regions=True, experiment="e1")
    image = random_image(5, classes=2, config=regions)
    single = [random_image(5, classes=2, config=regions).prediction.mean[k : k + 1] for k in range(2)]
    each = [
        compute("nll", image_of(p, image.raters[:, k : k + 1], config_of(experiment="e1")))
        for k, p in enumerate(single)
    ]
    assert compute("nll", image) == pytest.approx(sum(each) / 2)


@pytest.mark.parametrize("raters", [1, 3])
def test_a_metric_has_the_mean_over_the_classes_and_the_value_of_each(raters):
    image = random_image(6, classes=3, raters=raters, samples=4)
    for name, values in measure_one(image).items():
        assert values.shape == (4,)
        if name in MEASURES and not MEASURES[name].joint:
            assert float(values[0]) == pytest.approx(float(values[1:].nanmean()), nan_ok=True)
            assert float(values[2]) == pytest.approx(compute(name, image, 1), nan_ok=True)
        else:
            assert values[1:].isnan().all()


@settings(max_examples=15)
@given(SEEDS, st.permutations(range(3)), st.booleans())
def test_metrics_do_not_depend_on_the_order_of_the_classes(seed, order, ignored):
    image = random_image(seed, classes=3, raters=2, ignored=ignored, samples=3)
    prediction = image.prediction
    turned = replace(prediction, mean=prediction.mean[order], sd=prediction.sd[order], masks=prediction.masks[:, order])
    found = all_metrics(replace(image, prediction=turned, raters=image.raters[:, order]))
    expected = all_metrics(image)
    for name, values in expected.items():
        permuted = values[:1] + [values[1 + k] for k in order] if len(values) > 1 else values
        assert found[name] == pytest.approx(permuted, abs=1e-6, nan_ok=True), name


@settings(max_examples=15)
@given(SEEDS, st.integers(1, 3), st.integers(1, 2))
def test_predictions_of_ignored_pixels_change_nothing(seed, classes, raters):
    image = random_image(seed, classes, raters, ignored=True, samples=3)
    other = random_image(seed + 1, classes, raters, samples=3)
    changed = {
        name: torch.where(image.valid, getattr(image.prediction, name), getattr(other.prediction, name))
        for name in ("mean", "masks")
    }
    changed["sd"] = torch.where(image.valid, image.prediction.sd, 0.4)
    masks = torch.where(image.valid, image.raters, other.raters)
    again = replace(image, prediction=replace(image.prediction, **changed), raters=masks)
    assert same(all_metrics(again), all_metrics(image))
    assert torch.equal(count_confusions(TestImages([again])), count_confusions(TestImages([image])))


@settings(max_examples=10)
@given(SEEDS, st.integers(1, 3))
def test_ignored_pixels_are_left_out_as_if_the_image_ended_there(seed, classes):
    """But for metrics that depend on the image's size: the band of the boundary, and the worst distance."""
    image = random_image(seed, classes, raters=3, samples=4, size=16)
    kept = torch.zeros(16, 16, dtype=torch.bool)
    kept[:, :8] = True
    prediction = image.prediction
    halves = {name: getattr(prediction, name)[..., :8] for name in ("mean", "sd", "masks")}
    half = replace(image, prediction=replace(prediction, **halves), raters=image.raters[..., :8])
    found, expected = all_metrics(replace(image, valid=kept)), all_metrics(half)
    of_size = {"boundary_iou", "ece_boundary", "ece_foreground", "hd95", "assd"}
    for name in found.keys() - of_size:
        assert found[name] == pytest.approx(expected[name], abs=1e-9, nan_ok=True), name


@settings(max_examples=20)
@given(SEEDS, st.integers(1, 3), st.sampled_from([1, 2]), st.booleans())
def test_metrics_are_in_the_range_that_the_registry_states(seed, classes, raters, ignored):
    found = all_metrics(random_image(seed, classes, raters, ignored=ignored, samples=3))
    for name, metric in MEASURES.items():
        most = 17 if "diagonal" in metric.range else metric.most
        for value in found.get(name, []):
            assert math.isnan(value) or metric.least - 1e-9 <= value <= most + 1e-9, name


def test_an_image_whose_pixels_are_all_ignored_is_nan():
    image = replace(random_image(7, raters=2, samples=2), valid=torch.zeros(12, 12, dtype=torch.bool))
    assert all(values.isnan().all() for values in measure_one(image).values())
    assert not count_confusions(TestImages([image])).any()


@settings(max_examples=15)
@given(SEEDS, st.integers(2, 4), st.booleans())
def test_confusions_match_sklearn_and_the_counts_of_pixels(seed, classes, ignored):
    from sklearn.metrics import confusion_matrix

    image = random_image(seed, classes, ignored=ignored)
    one = TestImages([image])
    kept = one.valid[0, 0] if ignored else torch.ones_like(one.mask[0, 0])
    counted = [
        torch.where(masks.any(0), masks.byte().argmax(0) + 1, 0)[kept] for masks in (image.raters[0], one.mask[0])
    ]
    expected = confusion_matrix(*counted, labels=range(classes + 1))
    found = count_confusions(one)[0]
    assert found.tolist() == expected.tolist()
    rows = measure_one(image)
    for name, counts in (("shared", found.diag()), ("true", found.sum(1)), ("predicted", found.sum(0))):
        assert rows[f"{name}_pixels"][1:].tolist() == counts[1:].tolist()
    table = confusion_rows(found[None], [{"image": "x", "group": None}], Classes.of(image.config.data))
    assert sum(row["count"] for row in table) == len(counted[0])
    assert {(row["truth"], row["predicted"]) for row in table} <= {
        (a, b) for a in ("background", *"abcd") for b in ("background", *"abcd")
    }
