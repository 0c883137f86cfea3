"""Test images made of tensors, for the tests of metrics."""

import torch

from diffseg.config import Config
from diffseg.evaluation.calibration import Calibration
from diffseg.evaluation.images import TestImage, TestImages
from diffseg.evaluation.registry import MEASURES
from diffseg.evaluation.split import measure
from diffseg.labels.classes import Classes
from diffseg.labels.labels import Labels
from diffseg.prediction.merging import Prediction


def config_of(classes: int = 1, **leaves) -> Config:
    """A configuration of exclusive classes a, b, …; other settings as keywords with __ for the dot."""
    named = {"data.classes": {"abcdefgh"[k]: k + 1 for k in range(classes)}} if classes > 1 else {}
    return Config().with_leaves(named | {key.replace("__", "."): value for key, value in leaves.items()})


def image_of(probability, raters, config=None, valid=None, samples=None, **known) -> TestImage:
    """A test image of probabilities [K, H, W], or [H, W] of one class, and raters' masks [R, K, H, W], or [R, H, W].

    samples, bool [n, K, H, W], are the masks of the ensemble; without them the mask that the probabilities give is its one.
    """
    if probability.ndim == 2:
        probability, raters = probability[None], raters[:, None]
        samples = None if samples is None else samples[:, None]
    config = config or config_of(len(probability))
    if samples is None:
        samples = Labels.of(config).decide(probability[None], config.inference.threshold)
    prediction = Prediction(0, probability, torch.zeros_like(probability), samples, torch.tensor(1.0))
    return TestImage(prediction, raters.bool(), valid, config, **known)


def calibration_of(*images: TestImage) -> Calibration:
    """The calibration of test images of one configuration."""
    found = Calibration("cpu", Classes.of(images[0].config.data))
    for image in images:
        found.add(TestImages([image]))
    return found


def compute(name: str, image: TestImage, k: int = 0) -> float:
    """The metric of the k-th class of one test image, or of all classes if it is joint."""
    return float(MEASURES[name].compute(TestImages([image]))[0].flatten()[k])


def measure_one(image: TestImage) -> dict[str, torch.Tensor]:
    """Every metric of one test image, each [rows]."""
    return {name: values[0] for name, values in measure(TestImages([image])).items()}


def random_image(seed, classes=1, raters=1, size=12, ignored=False, samples=0, config=None, **known) -> TestImage:
    """A test image of random probabilities and random exclusive classes; a sixth of its pixels is ignored if asked for."""
    draw = torch.Generator().manual_seed(seed)
    probability = torch.rand(classes + 1, size, size, generator=draw).pow(3)
    probability = (probability / probability.sum(0))[1:]
    numbers = torch.randint(0, classes + 1, (raters + samples, size // 4, size // 4), generator=draw)
    numbers = numbers.repeat_interleave(4, 1).repeat_interleave(4, 2)
    masks = torch.stack([numbers == k for k in range(1, classes + 1)], dim=1)
    valid = torch.rand(size, size, generator=draw) > 1 / 6 if ignored else None
    config = config or config_of(classes)
    return image_of(probability, masks[:raters], config, valid, masks[raters:] if samples else None, **known)
