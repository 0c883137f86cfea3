"""The evaluation of a test split: the metrics of every image and of all, calibration, and example pictures."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from diffseg.config import Config
from diffseg.data.splits import Split
from diffseg.evaluation.batches import stack_by_size
from diffseg.evaluation.calibration import Calibration
from diffseg.evaluation.confusion import confusion_rows, count_confusions
from diffseg.evaluation.examples import draw_example
from diffseg.evaluation.images import TestImage, TestImages
from diffseg.evaluation.raters import energy_distance_by_samples
from diffseg.evaluation.registry import MEASURES, METRICS
from diffseg.evaluation.truth import distance_unit, read_truth
from diffseg.labels.labels import Labels
from diffseg.prediction.merging import Prediction
from diffseg.rows import Row


def evaluate(predictions: Iterable[Prediction], test: Split, config: Config) -> dict[str, Any]:
    """Return the metrics and the calibration of the ensemble on a test split, and example pictures.

    Keys: `means`, the mean of every metric over the images for which it is defined, and the pooled metrics; `trial`, those of
    them that are columns of the ledger's table `trials`, and the unit of distances; `left_out`, the number of images for which
    a metric is NaN, by metric; and rows of the ledger's tables `images`, `calibration`, `confusion` and `examples`.
    """
    labels = Labels.of(config)
    names: list[Row] = []
    evaluations: list[torch.Tensor] = []
    examples: list[Row] = []
    shown = spread(len(test.names), config.inference.examples)

    def read_images() -> Iterator[TestImage]:
        for prediction in predictions:
            image = read_truth(prediction, test, config)
            names.append(_name(prediction.index, test))
            evaluations.append(prediction.evaluations)
            if prediction.index in shown:
                examples.extend(draw_example(image, test))
            yield image

    calibration, places, measured, confusions = Calibration(test.device, labels.classes), [], [], []
    for own, images in stack_by_size(read_images()):
        places += own
        measured.append(measure(images))
        calibration.add(images)
        if labels.several:
            confusions.append(count_confusions(images))
    order = torch.tensor(places).argsort()  # images of several sizes are measured out of order
    metrics = list(measured[0])
    values = torch.cat([torch.stack(list(found.values()), 1) for found in measured]).cpu()[order]  # [N, metrics, rows]
    pooled = {name: metric.compute(calibration) for name, metric in MEASURES.items() if metric.pooled}
    pooled["evaluations"] = torch.stack(evaluations).mean().item()
    whole = values[..., 0]
    means = dict(zip(metrics, whole.nanmean(0).tolist(), strict=True)) | pooled
    missing = dict(zip(metrics, whole.isnan().sum(0).tolist(), strict=True))
    return {
        "means": means,
        "trial": {name: mean for name, mean in means.items() if name in (*METRICS, "samples", "evaluations")}
        | {"distance_unit": distance_unit(test)},
        "left_out": {metric: count for metric, count in missing.items() if count},
        "images": _image_rows(metrics, values, names, labels.classes.rows)
        + [
            {**_name(index, test), "class": "all", "metric": "objects", "value": float(count)}
            for index, count in enumerate(test.objects)
        ],
        "calibration": [row | names[row["image"]] for row in calibration.rows(order)],
        "confusion": confusion_rows(torch.cat(confusions).cpu()[order], names, labels.classes) if confusions else [],
        "examples": examples,
    }


def spread(images: int, examples: int) -> set[int]:
    """Return the places of the test images that are kept as examples: evenly spread, and the same in all trials."""
    return set(torch.linspace(0, images - 1, min(images, examples)).round().long().tolist())


def measure(images: TestImages) -> dict[str, torch.Tensor]:
    """Return every metric that applies to test images, float64 [B, rows] on the device of their masks.

    The first value is that of all classes: the mean over those for which it is defined, or that of a joint metric. The
    values of each of several classes follow (`Classes.rows`); they are NaN for joint metrics. All are NaN if no pixel counts.
    """
    found: dict[str, torch.Tensor] = {}
    for name, metric in MEASURES.items():
        if not metric.pooled and metric.applies.holds(images):
            found[name] = torch.as_tensor(metric.compute(images))
    found |= energy_distance_by_samples(images)
    device, classes = images.raters.device, images.raters.shape[1]
    rows = {name: _with_mean(values.to(device, torch.float64), classes) for name, values in found.items()}
    if images.valid is None:
        return rows
    return {name: torch.where(images.pixels > 0, values, torch.nan) for name, values in rows.items()}


def _with_mean(values: torch.Tensor, classes: int) -> torch.Tensor:
    """Return the value of all classes, and then that of each if there are several: [B, rows] from [B, K], or [B] if joint."""
    if values.ndim == 1:
        values = values[:, None]
        return torch.cat([values, values.new_full((len(values), classes), torch.nan)], 1) if classes > 1 else values
    return values if classes == 1 else torch.cat([values.nanmean(1, keepdim=True), values], 1)


def _image_rows(metrics: list[str], values: torch.Tensor, names: list[Row], classes: tuple[str, ...]) -> list[Row]:
    """Return rows of the ledger's table `images`, given values [N, metrics, rows]. Joint metrics have no rows of classes."""
    return [
        name | {"class": label, "metric": metric, "value": value}
        for name, image in zip(names, values.tolist(), strict=True)
        for metric, row in zip(metrics, image, strict=True)
        for label, value in zip(classes, row, strict=True)
        if label == "all" or (metric in MEASURES and not MEASURES[metric].joint)
    ]


def _name(index: int, test: Split) -> Row:
    """Return the name of a test image and its patient or volume."""
    return {"image": test.names[index], "group": test.groups[index]}
