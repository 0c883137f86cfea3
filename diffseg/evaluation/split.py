"""The evaluation of a test split: the metrics of every image and of all, calibration, and example pictures."""

from collections.abc import Iterable
from typing import Any

import torch

from diffseg.config import Config
from diffseg.data.splits import Split
from diffseg.evaluation.calibration import Calibration
from diffseg.evaluation.case import TestImage
from diffseg.evaluation.confusion import confusion_rows, count_confusions
from diffseg.evaluation.examples import draw_example
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
    calibration, measured = Calibration(test.device, labels.classes), []
    indices, evaluations, confusions, examples = [], [], [], []
    for prediction in predictions:
        image = read_truth(prediction, test, config)
        measured.append(measure(image))
        indices.append(prediction.index)
        evaluations.append(prediction.evaluations)
        calibration.add(image)
        if labels.several:
            confusions.append(count_confusions(image))
        if len(measured) <= config.inference.examples:
            examples += draw_example(image, test)
    metrics = list(measured[0])
    values = torch.stack(
        [torch.stack([found[metric] for metric in metrics]) for found in measured]
    )  # [N, metrics, rows]
    pooled = {name: metric.compute(calibration) for name, metric in MEASURES.items() if metric.pooled}
    pooled["evaluations"] = torch.stack(evaluations).mean().item()
    whole, names = values[..., 0], [_name(index, test) for index in indices]
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
        "calibration": [row | names[row["image"]] for row in calibration.rows()],
        "confusion": confusion_rows(confusions, names, labels.classes) if confusions else [],
        "examples": examples,
    }


def measure(image: TestImage) -> dict[str, torch.Tensor]:
    """Return every metric that applies to a test image, float64 [rows] on the device of its masks.

    The first value is that of all classes: the mean over those for which it is defined, or that of a joint metric. The
    values of each of several classes follow (`Classes.rows`); they are NaN for joint metrics. All are NaN if no pixel counts.
    """
    cases, found = image.classes, {}
    for name, metric in MEASURES.items():
        if metric.pooled or not metric.applies.holds(image):
            continue
        found[name] = [metric.compute(image)] if metric.joint else [metric.compute(case) for case in cases]
    found |= {name: [value] for name, value in energy_distance_by_samples(image).items()}
    rows = {name: _with_mean(values, len(cases), image.raters.device) for name, values in found.items()}
    if image.valid is None:
        return rows
    counts = image.valid.any()
    return {name: torch.where(counts, values, torch.nan) for name, values in rows.items()}


def _with_mean(values: list[torch.Tensor | float], classes: int, device: torch.device) -> torch.Tensor:
    """Return the value of all classes, and then that of each if there are several."""
    of_each = torch.stack([torch.as_tensor(value, dtype=torch.float64, device=device) for value in values])
    if classes == 1:
        return of_each
    return torch.cat(
        [of_each.nanmean(0, keepdim=True), of_each if len(values) > 1 else of_each.new_full((classes,), torch.nan)]
    )


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
