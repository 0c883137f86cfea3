"""The evaluation of a test split: the metrics of every image and of all, calibration, and example pictures."""

from collections.abc import Iterable
from typing import Any

import torch

from diffseg.config import Config
from diffseg.data.splits import Split
from diffseg.evaluation.calibration import Calibration
from diffseg.evaluation.case import Case, energy_distance_by_samples
from diffseg.evaluation.examples import draw_example
from diffseg.evaluation.registry import MEASURES, METRICS
from diffseg.prediction.merging import Prediction
from diffseg.prediction.resolution import reference_masks
from diffseg.rows import Row


def evaluate(predictions: Iterable[Prediction], test: Split, config: Config) -> dict[str, Any]:
    """Return the metrics and the calibration of the ensemble on a test split, and example pictures.

    Keys: `means`, the mean of every metric over the images for which it is defined, and the pooled metrics; `trial`, those of
    them that are columns of the ledger's table `trials`; `left_out`, the number of images for which a metric is NaN, by
    metric; and rows of the ledger's tables `images`, `calibration` and `examples`.
    """
    calibration, cases = Calibration(test.device), []
    indices, evaluations, examples = [], [], []
    for prediction in predictions:
        case = Case(prediction, reference_masks(test, prediction.index, config), config)
        cases.append(measure(case))
        indices.append(prediction.index)
        evaluations.append(prediction.evaluations)
        calibration.add(prediction.mean, case.raters)
        if len(cases) <= config.inference.examples:
            examples += draw_example(prediction, case.raters, test)
    metrics = list(cases[0])
    values = torch.stack([torch.stack([case[metric] for metric in metrics]) for case in cases])
    pooled = {name: metric.compute(calibration) for name, metric in MEASURES.items() if metric.pooled}
    pooled["evaluations"] = torch.stack(evaluations).mean().item()
    means = dict(zip(metrics, values.nanmean(0).tolist(), strict=True)) | pooled
    missing = dict(zip(metrics, values.isnan().sum(0).tolist(), strict=True))
    return {
        "means": means,
        "trial": {name: mean for name, mean in means.items() if name in (*METRICS, "samples", "evaluations")},
        "left_out": {metric: count for metric, count in missing.items() if count},
        "images": _image_rows(metrics, values.tolist(), indices, test),
        "calibration": [row | _name(indices[row["image"]], test) for row in calibration.rows()],
        "examples": examples,
    }


def measure(case: Case) -> dict[str, torch.Tensor]:
    """Return every metric of one test image that applies to it, float64 [] on the device of its masks."""
    found: dict[str, torch.Tensor | float] = {
        name: metric.compute(case)
        for name, metric in MEASURES.items()
        if not metric.pooled and metric.applies.holds(case)
    }
    found |= energy_distance_by_samples(case)
    device = case.raters.device
    return {name: torch.as_tensor(value, dtype=torch.float64, device=device) for name, value in found.items()}


def _image_rows(metrics: list[str], values: list[list[float]], indices: list[int], test: Split) -> list[Row]:
    """Return rows of the ledger's table `images`: the metrics, and the number of objects of the images' masks."""
    rows = [
        {**_name(index, test), "metric": metric, "value": value}
        for index, row in zip(indices, values, strict=True)
        for metric, value in zip(metrics, row, strict=True)
    ]
    return rows + [
        {**_name(index, test), "metric": "objects", "value": float(count)} for index, count in enumerate(test.objects)
    ]


def _name(index: int, test: Split) -> Row:
    """Return the name of a test image and its patient or volume."""
    return {"image": test.names[index], "group": test.groups[index]}
