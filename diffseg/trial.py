"""The lifecycle of one trial, without Ray: data, training, prediction, metrics. Run again, it resumes."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from diffseg import data
from diffseg.config import Config
from diffseg.data import Dataset, Split
from diffseg.evaluation.risk import RiskCounter, check_units, choose_threshold, measure_risks, with_threshold
from diffseg.evaluation.split import evaluate
from diffseg.experiments import build_experiment
from diffseg.fingerprint.classes import fingerprint_rows
from diffseg.fingerprint.curve import compute_fingerprint
from diffseg.networks.protocol import RunContext, TrainedNetwork
from diffseg.nouns import noun
from diffseg.prediction.mask_format import MaskFormat
from diffseg.prediction.merging import pool_predictions
from diffseg.randomness import generator
from diffseg.rows import Row
from diffseg.training.batches import draw_corners
from diffseg.training.execution import choose_device, keep_compiled
from diffseg.training.hooks import Hooks
from diffseg.training.parallel import SINGLE_PROCESS, Workers


@dataclass(frozen=True)
class Outcome:
    """What a finished trial found: rows of the ledger's tables (studies/store/tables.py), one field for each table."""

    trial: Row  # the row in `trials`: final metrics, counts and costs
    curves: list[Row] = field(default_factory=list)
    timesteps: list[Row] = field(default_factory=list)
    images: list[Row] = field(default_factory=list)
    calibration: list[Row] = field(default_factory=list)
    confusion: list[Row] = field(default_factory=list)  # of several exclusive classes
    risks: list[Row] = field(default_factory=list)  # with a limit of the risk
    examples: list[Row] = field(default_factory=list)
    fingerprints: list[Row] = field(default_factory=list)  # of E3
    pruned: str | None = None  # why the training ended early, if it did

    def tables(self) -> dict[str, list[Row]]:
        """Return the rows by the name of their table."""
        names = [each.name for each in fields(self) if each.name not in ("trial", "pruned")]
        return {"trials": [self.trial], **{name: getattr(self, name) for name in names}}


def run(
    config: Config,
    root: Path | None,
    folder: Path,
    cache: Path | None = None,
    device: torch.device | str | None = None,
    hooks: Hooks = Hooks(),
    folder_of: Callable[[Config], Path] | None = None,
    workers: Workers = SINGLE_PROCESS,
) -> Outcome | None:
    """Train and evaluate a configuration, resuming from the checkpoints in `folder`.

    Args:
        config: The trial.
        root: The folder of the data set; None for synthetic data.
        folder: The folder of the checkpoints. Workers other than the first one need none.
        cache: The folder of decoded data sets and compiled networks; None for no cache.
        device: The device to compute on; None for a GPU if there is one, else the CPU.
        hooks: Functions of the caller.
        folder_of: Returns the folder of another trial that a deep ensemble or a fingerprint builds on, to resume from
            what that trial left there. None for folders below `folder`.
        workers: The processes that train the trial together.

    Returns:
        The outcome. Of several workers only the first one evaluates; the others return None.

    Raises:
        UserError: The data, a setting or the machine is not usable, or the training diverged.
        Stopped: A hook asked to stop.
    """
    config = config.resolved()
    config.network.check_size(config.data.size)
    device = choose_device(device, config.network.unordered_sums)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    if cache:
        keep_compiled(cache)
    load_context = partial(_load_context, root=root, cache=cache, device=device, hooks=hooks, workers=workers)
    folder_of = folder_of or (lambda other: folder / other.digest)
    config, knots = _measure_fingerprint(config, load_context, folder_of)
    context = load_context(config)
    labels = _describe_masks(context.dataset, config) if workers.is_first else {}
    if config.inference.seeds:
        fitted = _pool_ensemble([_fit(member, folder_of(member), context) for member in config.members()])
    else:
        fitted = _fit(config, folder, context)
    if not workers.is_first:
        return None
    clock = time.perf_counter()
    segmented = build_experiment(config).segments and not fitted.pruned
    rows = _evaluate(fitted, context, config) if segmented else {}
    if config.experiment == "e3":
        rows["fingerprints"] = fingerprint_rows(fitted.timesteps, context.dataset.digest, config)
    outcome = _describe(fitted, context.dataset, config, device, rows, evaluate_seconds=time.perf_counter() - clock)
    return replace(outcome, trial=outcome.trial | labels | knots)


def _evaluate(fitted: TrainedNetwork, context: RunContext, config: Config) -> dict[str, Any]:
    """Return the rows of the evaluation, by table. With a limit of the risk, masks are cut at the threshold that it chooses."""
    if context.calibration is None:
        return evaluate(fitted.predictions, context.test, config)
    risks = measure_risks(fitted.calibration, context.calibration, config)
    chosen = choose_threshold(risks, config.inference.risk.level)
    counter = RiskCounter(context.test, config)
    predictions = counter.count(fitted.predictions)
    rows = evaluate(predictions, context.test, with_threshold(config, chosen))
    rows["risks"] = risks.rows("calibration", chosen) + counter.risks().rows("test", chosen)
    rows["trial"] |= {"risk_threshold": chosen, "risk": counter.risks().mean_at(chosen), "risk_units": len(risks.units)}
    return rows


def _load_context(
    config: Config, root: Path | None, cache: Path | None, device: torch.device, hooks: Hooks, workers: Workers
) -> RunContext:
    """Load the trial's data onto the device."""
    dataset = workers.run_on_all(lambda: data.load(config.data, root, cache, hooks.on_data))
    test = _crop_test_images(dataset.test.to(device), config)
    calibration = dataset.calibration and _crop_test_images(dataset.calibration.to(device), config)
    if config.inference.risk.metric == "none":
        calibration = None
    elif calibration:
        check_units(calibration, config)
    return RunContext(dataset, dataset.train.to(device), test, device, hooks, workers, calibration)


def _crop_test_images(test: Split, config: Config) -> Split:
    """Return the test images; with data.test_crops one crop of each, the same ones for every trial with this seed."""
    if not config.data.test_crops:
        return test
    which, draw = torch.arange(len(test.names), device=test.device), generator(test.device, config.seed, "test crops")
    return test.crop(draw_corners(test, which, config.data.size, draw), config.data.size)


def _measure_fingerprint(
    config: Config, load_context: Callable[[Config], RunContext], folder_of: Callable[[Config], Path]
) -> tuple[Config, Row]:
    """Train the E3 trials of a configuration's fingerprint, and put its profile in the place of the word.

    Returns:
        (the configuration with the profile, the profile's knots for the trial's row). A configuration without a
        fingerprint is returned as it is.
    """
    if not config.fingerprint_trials():
        return config, {}
    measured = [_fit(other, folder_of(other), load_context(other)).timesteps for other in config.fingerprint_trials()]
    of_class = config.diffusion.fingerprint_class or "all"
    knots = compute_fingerprint(measured, config.diffusion.fingerprint, of_class).knots()
    curves = {name: "profile" for name in ("weighting", "density") if getattr(config.diffusion, name) == "fingerprint"}
    profile = config.diffusion.model_copy(update={**curves, "profile": knots}).resolved()
    return config.model_copy(update={"diffusion": profile}), {"fingerprint": json.dumps(knots)}


def _describe_masks(dataset: Dataset, config: Config) -> Row:
    """Return the format of the training masks for the trial's row; nothing if no class is named."""
    return {"labels": MaskFormat.of(dataset.train, config.data).to_json()} if config.data.classes else {}


def _fit(config: Config, folder: Path, context: RunContext) -> TrainedNetwork:
    """Train the configuration's network in the folder, in the network's own way."""
    return config.network.implementation().fit(config, folder, context)


def _pool_ensemble(members: list[TrainedNetwork]) -> TrainedNetwork:
    """Return a deep ensemble. Its training time leaves out what its members' own trials had trained before."""
    return TrainedNetwork(
        predictions=(
            pool_predictions(list(same)) for same in zip(*(member.predictions for member in members), strict=True)
        ),
        calibration=(
            pool_predictions(list(same)) for same in zip(*(member.calibration for member in members), strict=True)
        ),
        parameters=sum(member.parameters for member in members),
        seconds=sum(member.seconds - member.resumed for member in members),
        resumed=0.0,
        steps=sum(member.steps for member in members),
        curves=[],
        timesteps=[],
    )


def _describe(
    fitted: TrainedNetwork,
    dataset: Dataset,
    config: Config,
    device: torch.device,
    rows: dict[str, Any],
    evaluate_seconds: float,
) -> Outcome:
    """Return the outcome of a trained network, given the rows of its evaluation by table."""
    cuda, threads = device.type == "cuda", torch.get_num_threads()
    trial = {
        "parameters": fitted.parameters,
        "steps": fitted.steps,
        "train_images": len(dataset.train.names),
        "test_images": len(dataset.test.names),
        "data_digest": dataset.digest,
        "scaling": json.dumps(asdict(dataset.train.scaling)),
        "micro_batch": fitted.micro_batch,
        "execution": fitted.execution,
        "checkpoint": fitted.checkpoint,
        "train_seconds": fitted.seconds,
        "resumed_seconds": fitted.resumed,
        "evaluate_seconds": evaluate_seconds,
        "peak_memory_bytes": torch.cuda.max_memory_allocated(device) if cuda else 0,
        **config.network.implementation().execution(config, device),
        "device": torch.cuda.get_device_name(device) if cuda else f"cpu, {threads} {noun(threads, 'thread')}",
    }
    if "left_out" in rows:
        trial["left_out"] = json.dumps(rows["left_out"])
    return Outcome(
        trial=trial | rows.get("trial", {}),
        curves=fitted.curves,
        timesteps=fitted.timesteps,
        pruned=fitted.pruned,
        **{table: found for table, found in rows.items() if table not in ("trial", "means", "left_out")},
    )
