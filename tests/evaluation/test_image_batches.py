"""Batches of test images: they are measured as the images one by one."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import split_of
from evaluated_images import calibration_of, config_of, image_of, measure_one, random_image

from diffseg.evaluation import batches
from diffseg.evaluation.batches import stack_by_size
from diffseg.evaluation.calibration import Calibration
from diffseg.evaluation.confusion import count_confusions
from diffseg.evaluation.images import TestImages
from diffseg.evaluation.registry import MEASURES
from diffseg.evaluation.split import evaluate, measure, spread
from diffseg.labels.classes import Classes
from diffseg.prediction.merging import Prediction


def images_of(classes, raters, ignored, **leaves):
    """Test images of two sizes in turn: ordinary ones, and ones with empty masks, empty predictions, and no pixel that counts."""
    config = config_of(classes, **leaves)
    images = [
        random_image(k, classes, raters, size=(12, 16)[k % 2], ignored=ignored, samples=3, config=config)
        for k in range(9)
    ]
    for k, empty in enumerate(("true", "predicted", "both")):
        image = images[k]
        mean = image.prediction.mean * 0 if empty != "true" else image.prediction.mean
        masks = image.prediction.masks & (empty == "true")
        raters_masks = image.raters & (empty == "predicted")
        prediction = replace(image.prediction, mean=mean, masks=masks)
        images[k] = replace(image, prediction=prediction, raters=raters_masks)
    if ignored:
        images[3] = replace(images[3], valid=torch.zeros_like(images[3].valid))
    return [replace(image, prediction=replace(image.prediction, sd=image.prediction.mean / 3)) for image in images]


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("raters", [1, 3])
@pytest.mark.parametrize(("classes", "regions"), [(1, False), (2, False), (2, True)])
def test_a_batch_is_measured_as_its_images_one_by_one(classes, regions, raters, ignored):
    images = images_of(classes, raters, ignored, **({"data__regions": True} if regions else {}))
    single = [measure_one(image) for image in images]
    found = {}
    for places, batch in stack_by_size(images):
        for name, values in measure(batch).items():
            found |= {(place, name): own.tolist() for place, own in zip(places, values, strict=True)}
        if classes > 1 and not regions:
            counts = [count_confusions(TestImages([image])) for image in batch.images]
            assert torch.equal(count_confusions(batch), torch.cat(counts))
    expected = {(place, name): values.tolist() for place, own in enumerate(single) for name, values in own.items()}
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        assert found[key] == pytest.approx(values, rel=1e-12, abs=1e-12, nan_ok=True), key
    of_images = {name for name, metric in MEASURES.items() if not metric.pooled}
    assert of_images <= {name for _, name in found} or raters == 1


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize(("classes", "regions"), [(1, False), (3, False), (2, True)])
def test_the_calibration_of_batches_is_that_of_their_images(classes, regions, ignored):
    images = images_of(classes, 2, ignored, **({"data__regions": True} if regions else {}))
    expected, found, places = calibration_of(*images), Calibration("cpu", Classes.of(images[0].config.data)), []
    for own, batch in stack_by_size(images):
        places += own
        found.add(batch)
    for name, metric in MEASURES.items():
        if metric.pooled:
            assert metric.compute(found) == pytest.approx(metric.compute(expected), rel=1e-12), name
    rows = found.rows(torch.tensor(places).argsort())
    for row, other in zip(rows, expected.rows(), strict=True):
        assert row == pytest.approx(other, abs=1e-12)


def test_batches_have_one_size_and_few_pixels(monkeypatch):
    monkeypatch.setitem(batches.LARGEST, "cpu", 3 * 12 * 12)
    images = images_of(1, 1, False)
    found = list(stack_by_size(images))
    assert [places for places, _ in found] == [[1], [3], [0, 2, 4], [5], [7], [6, 8]]
    assert all(batch.images == tuple(images[place] for place in places) for places, batch in found)


def test_few_images_are_gathered_before_they_are_measured(monkeypatch):
    monkeypatch.setattr(batches, "GATHERED", 4)
    images = images_of(1, 1, False)
    assert [places for places, _ in stack_by_size(images)] == [[0, 2], [1, 3, 5], [4, 6, 8], [7]]


def test_rows_of_a_split_of_several_sizes_are_in_its_order():
    config = config_of(inference__examples=0)
    sizes = (8, 12, 8, 12, 8)
    masks = [torch.zeros(1, size, size, dtype=torch.uint8) for size in sizes]
    for k, mask in enumerate(masks):
        mask[:, : k + 1, :2] = 1
    split = split_of([torch.zeros(3, size, size, dtype=torch.uint8) for size in sizes], masks)
    predictions = [
        Prediction(k, mask.float(), mask * 0.0, mask.bool()[None], torch.tensor(1.0)) for k, mask in enumerate(masks)
    ]
    found = evaluate(predictions, split, config)
    areas = [(row["image"], row["value"]) for row in found["images"] if row["metric"] == "true_pixels"]
    assert areas == [(str(k), 2.0 * (k + 1)) for k in range(5)]
    assert [row["image"] for row in found["calibration"] if row["bin"] == 9] == list("01234")
    assert found["means"]["iou"] == 1


def test_the_values_of_one_image_have_closed_forms():
    image = image_of(torch.tensor([[0.9, 0.2], [0.6, 0.1]]), torch.tensor([[[1, 0], [0, 0]]]))
    found = {name: float(values) for name, values in measure_one(image).items()}
    assert found["iou"] == 0.5
    assert found["brier"] == pytest.approx((0.01 + 0.04 + 0.36 + 0.01) / 4)
    assert math.isclose(found["dice"], 2 / 3)


@pytest.mark.parametrize(
    ("images", "examples", "places"),
    [(10, 4, {0, 3, 6, 9}), (3, 4, {0, 1, 2}), (5, 1, {0}), (5, 0, set()), (1, 4, {0})],
)
def test_examples_are_spread_over_the_test_images(images, examples, places):
    assert spread(images, examples) == places
