"""One trial from beginning to end, without Ray: data, training, prediction, metrics. Run again, it goes on where it was."""

import io
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from diffseg import data
from diffseg.config import Config
from diffseg.data import Dataset, Split
from diffseg.errors import Stopped
from diffseg.experiments import task
from diffseg.inference import Prediction, errors_over_t, predictions
from diffseg.metrics import Calibration, brier, nll, overlap
from diffseg.networks import check_size
from diffseg.training import Hooks, State, start, train


@dataclass(frozen=True)
class Outcome:
    """What a finished trial found, as rows of the ledger's tables of the same names."""

    trial: dict  # final metrics, counts and costs
    curves: list[dict]
    timesteps: list[dict]
    images: list[dict]
    calibration: list[dict]
    examples: list[dict]


def run(
    config: Config,
    root: Path | None,
    folder: Path,
    cache: Path | None = None,
    device: torch.device | str | None = None,
    hooks: Hooks = Hooks(),
) -> Outcome:
    """Train and evaluate a configuration; checkpoints in `folder` are gone on from.

    root: where the data set lies (None for synthetic data). cache: folder of decoded data sets.
    Raises UserError for bad data or a diverged loss, Stopped when asked to stop.
    """
    config = config.resolved()
    check_size(config.network, config.data.size)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dataset = data.load(config.data, root, cache)
    training, test = dataset.train.to(device), dataset.test.to(device)
    if device.type == "cuda":
        torch.backends.cudnn.deterministic = True  # a resumed run must end as one that was not stopped
        torch.cuda.reset_peak_memory_stats(device)

    def on_batch():
        if hooks.should_stop():
            raise Stopped("stopped while evaluating")

    def snapshot(state: State) -> list[dict]:
        return errors_over_t(state.average, test, config, on_batch) if task(config).denoises else []

    state = start(config, folder, device)
    resumed_seconds = state.seconds
    train(config, training, state, folder, snapshot, hooks)
    clock = time.perf_counter()
    rows = _evaluate(state, test, config, on_batch) if task(config).segments else {}
    costs = {"evaluate_seconds": time.perf_counter() - clock, "resumed_seconds": resumed_seconds}
    return _outcome(state, dataset, device, rows, costs)


def _evaluate(state: State, test: Split, config: Config, on_batch) -> dict:
    """Metrics of the ensemble on the test split: per image, pooled calibration, and example pictures."""
    calibration, names, values, examples = Calibration(test.images.device), [], [], []
    members = config.inference.ensemble
    for prediction in predictions(state.average, test, config, on_batch):
        height, width = test.sizes[prediction.index].tolist()
        mask = test.masks[prediction.index, 0, :height, :width]
        iou, dice = overlap(prediction.mean > config.inference.threshold, mask.bool())
        values.append(
            torch.stack([iou, dice, brier(prediction.mean, mask).double(), nll(prediction.mean, mask, members)])
        )
        names.append(test.names[prediction.index])
        calibration.add(prediction.mean, mask)
        if len(names) <= config.inference.examples:
            examples += _example(prediction, test, height, width)
    values = torch.stack(values)
    metrics = ("iou", "dice", "brier", "nll")
    means = dict(zip(metrics, values.mean(0).tolist(), strict=True))
    images = [
        {"image": name, "metric": metric, "value": value}
        for name, row in zip(names, values.tolist(), strict=True)
        for metric, value in zip(metrics, row, strict=True)
    ]
    return {
        "trial": means | {"ece": calibration.ece()},
        "images": images,
        "calibration": calibration.rows(),
        "examples": examples,
    }


def _example(prediction: Prediction, test: Split, height: int, width: int) -> list[dict]:
    """PNG pictures of one test image: the image, the true mask, mean and standard deviation of the ensemble."""
    image = test.images[prediction.index, :, :height, :width].permute(1, 2, 0)
    truth = test.masks[prediction.index, 0, :height, :width] * 255
    pictures = {"image": image, "truth": truth, "mean": prediction.mean * 255, "sd": prediction.sd * 2 * 255}
    return [
        {"image": test.names[prediction.index], "kind": kind, "png": _png(pixels)} for kind, pixels in pictures.items()
    ]


def _png(pixels: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.round().clamp(0, 255).cpu().numpy().astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def _outcome(state: State, dataset: Dataset, device: torch.device, rows: dict, costs: dict) -> Outcome:
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    trial = {
        "parameters": sum(parameter.numel() for parameter in state.network.parameters()),
        "train_images": len(dataset.train.names),
        "test_images": len(dataset.test.names),
        "data_digest": dataset.digest,
        "train_seconds": state.seconds,
        **costs,
        "peak_memory_bytes": peak,
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"cpu, {torch.get_num_threads()} threads",
    }
    return Outcome(
        trial=trial | rows.get("trial", {}),
        curves=state.curves,
        timesteps=state.snapshots,
        images=rows.get("images", []),
        calibration=rows.get("calibration", []),
        examples=rows.get("examples", []),
    )
