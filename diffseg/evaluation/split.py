"""The evaluation of a test split: metrics of every image and of all, calibration, and example pictures."""

import io
from collections.abc import Callable, Iterator

import numpy as np
import torch
from PIL import Image

from diffseg.config import Config
from diffseg.data import Split
from diffseg.evaluation.ambiguity import ambiguity
from diffseg.evaluation.metrics import Calibration, brier, calibration_errors, nll, overlap
from diffseg.prediction.merging import Prediction
from diffseg.prediction.resolution import reference_masks

EXAMPLE_SIDE = 512  # px, at most, of the pictures kept for the report


def evaluate(found: Iterator[Prediction], test: Split, config: Config) -> dict:
    """Metrics and calibration of the ensemble on the test split, per image and overall, and example pictures."""
    calibration, groups = Calibration(test.device), dict(zip(test.names, test.groups, strict=True))
    names, rows, evaluations, examples = [], [], [], []
    for prediction in found:
        raters = reference_masks(test, prediction.index, config)
        rows.append(_metrics(prediction, raters, config))
        names.append(test.names[prediction.index])
        evaluations.append(prediction.evaluations)
        calibration.add(prediction.mean, raters)
        if len(names) <= config.inference.examples:
            examples += _example(prediction, raters, test)
    metrics = list(rows[0])
    values = torch.stack([torch.stack([row[metric] for metric in metrics]) for row in rows])
    images = [
        {"image": name, "group": groups[name], "metric": metric, "value": value}
        for name, row in zip(names, values.tolist(), strict=True)
        for metric, value in zip(metrics, row, strict=True)
    ]
    images += [
        {"image": name, "group": groups[name], "metric": "objects", "value": float(count)}
        for name, count in zip(test.names, test.objects, strict=True)
    ]
    missing = {metric: count for metric, count in zip(metrics, values.isnan().sum(0).tolist(), strict=True) if count}
    overall = {"ece": calibration.ece(), "evaluations": torch.stack(evaluations).mean().item()}
    return {
        "trial": dict(zip(metrics, values.nanmean(0).tolist(), strict=True)) | overall,
        "left_out": missing,
        "images": images,
        "calibration": [
            row | {"image": names[row["image"]], "group": groups[names[row["image"]]]} for row in calibration.rows()
        ],
        "examples": examples,
    }


def _metrics(prediction: Prediction, raters: torch.Tensor, config: Config) -> dict[str, torch.Tensor]:
    """Of one image. IoU and Dice are against what more than half of the raters [R, H, W] marked."""
    sampled = config.experiment == "e2" or config.inference.merge != "mean"
    members = config.inference.ensemble if sampled else None  # E1's members are probabilities, not masks
    merged = prediction.mean > config.inference.threshold
    iou, dice = overlap(merged, raters.float().mean(0) > 0.5)
    found = {
        "iou": iou,
        "dice": dice,
        "brier": torch.stack([brier(prediction.mean, mask).double() for mask in raters]).mean(),
        "nll": torch.stack([nll(prediction.mean, mask, members) for mask in raters]).mean(),
        **_mean_over(raters, lambda mask: calibration_errors(prediction.mean, merged, mask)),
        "variance": prediction.sd.double().square().mean(),  # of the ensemble, mean over the pixels
    }
    return found if len(raters) == 1 else found | ambiguity(prediction.masks, merged, raters)


def _mean_over(raters: torch.Tensor, found: Callable[[torch.Tensor], dict]) -> dict[str, torch.Tensor]:
    """Means of what is found of each rater's mask, without what is NaN."""
    rows = [found(mask) for mask in raters]
    return {name: torch.stack([row[name] for row in rows]).nanmean() for name in rows[0]}


def _example(prediction: Prediction, raters: torch.Tensor, test: Split) -> list[dict]:
    """PNG pictures of one test image: the image, the true mask, mean and standard deviation of the ensemble."""
    image = test.display_image(prediction.index)
    image = image.permute(1, 2, 0).round() if len(image) == 3 else image.mean(0)
    pictures = {
        "image": image,
        "truth": raters.float().mean(0) * 255,
        "mean": prediction.mean * 255,
        "sd": prediction.sd * 2 * 255,
    }
    return [
        {"image": test.names[prediction.index], "kind": kind, "png": _png(pixels)} for kind, pixels in pictures.items()
    ]


def _png(pixels: torch.Tensor) -> bytes:
    buffer, picture = io.BytesIO(), Image.fromarray(pixels.round().clamp(0, 255).cpu().numpy().astype(np.uint8))
    picture.thumbnail((EXAMPLE_SIDE, EXAMPLE_SIDE))
    picture.save(buffer, "PNG")
    return buffer.getvalue()
