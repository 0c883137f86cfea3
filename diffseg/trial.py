"""One trial from beginning to end, without Ray: data, training, prediction, metrics. Run again, it goes on where it was."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path

import torch

from diffseg import data
from diffseg.config import Config
from diffseg.data import Dataset, Split
from diffseg.data.partition import interleave_groups
from diffseg.errors import Pruned, Stopped, UserError
from diffseg.evaluation.split import evaluate
from diffseg.experiments import task
from diffseg.fingerprint.curve import compute_fingerprint, fingerprint_rows
from diffseg.networks.build import check_size
from diffseg.prediction.ensembles import predictions
from diffseg.prediction.merging import Prediction, pooled
from diffseg.prediction.noise_errors import errors_over_t
from diffseg.randomness import generator
from diffseg.training import checkpoints
from diffseg.training.batches import random_corners
from diffseg.training.epoch_selection import curves, later, selected
from diffseg.training.execution import compiles, computing_device, precision
from diffseg.training.loop import Hooks, State, start, train
from diffseg.training.parallel import ALONE, Workers


@dataclass(frozen=True)
class Outcome:
    """What a finished trial found: rows of the ledger's tables (studies/store/tables.py), one field for each table."""

    trial: dict  # the row in `trials`: final metrics, counts and costs
    curves: list[dict] = field(default_factory=list)
    timesteps: list[dict] = field(default_factory=list)
    images: list[dict] = field(default_factory=list)
    calibration: list[dict] = field(default_factory=list)
    examples: list[dict] = field(default_factory=list)
    fingerprints: list[dict] = field(default_factory=list)  # of E3
    pruned: str | None = None  # why it ended early, if it did

    def tables(self) -> dict[str, list[dict]]:
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
    workers: Workers = ALONE,
) -> Outcome | None:
    """Train and evaluate a configuration; checkpoints in `folder` are gone on from.

    root: where the data set lies (None for synthetic data). cache: folder of decoded data sets. folder_of: the folder of
    another trial, for deep ensembles and fingerprints, which go on from what the trials that they need left there; below
    `folder` if None. workers: the processes that train it together, of which only the first one evaluates: the others, which
    need no folder, return None.
    Raises UserError for bad data or a diverged loss, Stopped when asked to stop.
    """
    config = config.resolved()
    check_size(config.network, config.data.size)
    device = computing_device(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    place_of = partial(_place, root=root, cache=cache, device=device, hooks=hooks, workers=workers)
    folder_of = folder_of or (lambda other: folder / other.digest)
    config, knots = _weighted(config, place_of, folder_of)
    place = place_of(config)
    if config.inference.seeds:
        fitted = _together([_fitted(member, folder_of(member), place) for member in config.members()])
    else:
        fitted = _fitted(config, folder, place)
    if not workers.first:
        return None
    clock = time.perf_counter()
    measured = task(config).segments and not fitted.pruned
    rows = evaluate(fitted.predictions, place.test, config) if measured else {}
    if config.experiment == "e3":
        rows["fingerprints"] = fingerprint_rows(fitted.timesteps, place.dataset.digest, config)
    outcome = _outcome(fitted, place.dataset, config, device, rows, evaluate_seconds=time.perf_counter() - clock)
    return replace(outcome, trial=outcome.trial | knots)


def _place(
    config: Config, root: Path | None, cache: Path | None, device: torch.device, hooks: Hooks, workers: Workers
) -> "_Place":
    dataset = workers.united(lambda: data.load(config.data, root, cache, hooks.on_data))
    return _Place(dataset, dataset.train.to(device), _tested(dataset.test.to(device), config), device, hooks, workers)


def _tested(test: Split, config: Config) -> Split:
    """The test images, or one crop of each, the same ones for every trial with this seed."""
    if not config.data.test_crops:
        return test
    which, draw = torch.arange(len(test.names), device=test.device), generator(test.device, config.seed, "test crops")
    return test.crop(random_corners(test, which, config.data.size, draw), config.data.size)


@dataclass(frozen=True)
class _Place:
    """Where a trial runs and on what."""

    dataset: Dataset
    training: Split
    test: Split
    device: torch.device
    hooks: Hooks
    workers: Workers

    def on_batch(self) -> None:
        if self.hooks.should_stop():
            raise Stopped("stopped while evaluating")


@dataclass(frozen=True)
class _Fitted:
    """One or several trained networks, and how they came about."""

    predictions: Iterator[Prediction]  # of the test images
    parameters: int
    seconds: float  # of training
    resumed: float  # of them, in earlier sessions
    steps: int
    curves: list[dict]
    timesteps: list[dict]
    pruned: str | None = None
    micro_batch: int | None = None  # images that were trained on at once; nnU-Net's is its own
    checkpoint: str | None = (
        None  # the file that the training ended with; None for ensembles, or if it could not be saved
    )


def _weighted(
    config: Config, place_of: Callable[[Config], _Place], folder_of: Callable[[Config], Path]
) -> tuple[Config, dict]:
    """The configuration with the measured fingerprint where it has the word, and the fingerprint's knots for the record.

    Its E3 trials go on from what they left in their folders. Other configurations stay as they are.
    """
    if not config.fingerprint_trials():
        return config, {}
    measured = [_fitted(other, folder_of(other), place_of(other)).timesteps for other in config.fingerprint_trials()]
    knots = compute_fingerprint(measured, config.diffusion.fingerprint).knots()
    curves = {name: "profile" for name in ("weighting", "density") if getattr(config.diffusion, name) == "fingerprint"}
    profile = config.diffusion.model_copy(update={**curves, "profile": knots}).resolved()
    return config.model_copy(update={"diffusion": profile}), {"fingerprint": json.dumps(knots)}


def _fitted(config: Config, folder: Path, place: _Place) -> _Fitted:
    workers = place.workers
    if config.network.name == "nnunet":
        if workers.count > 1:
            raise UserError(f"nnunet trains on one worker, not on {workers.count}: give --workers 1")
        from diffseg.networks import nnunet  # many seconds of imports

        state = nnunet.train(config, place.training, folder, place.device, place.hooks)
        return _of(state, folder, nnunet.predictions(state, place.test, config, place.on_batch))
    hooks, search = place.hooks, None
    if config.training.validation:
        longest = config.training.steps
        config, search = selected(config, place.training, folder / "selection", hooks, workers)
        hooks = later(hooks, longest)
    state = start(config, folder, place.device, workers)
    snapshots, evaluations = (
        {round(share * config.training.steps) for share in shares}
        for shares in (config.training.snapshots, config.training.evaluations)
    )

    def measure(state: State) -> list[dict]:
        errors = errors_over_t(state.average, place.test, config, place.on_batch) if state.step in snapshots else []
        return errors + (_segmented(state, config, place) if state.step in evaluations else [])

    try:
        train(config, place.training, state, folder, measure, snapshots | evaluations, hooks, workers)
    except Pruned as end:
        return _of(state, folder, iter(()), search, str(end))
    return _of(state, folder, predictions(state.average, place.test, config, place.on_batch), search)


def _segmented(state: State, config: Config, place: _Place) -> list[dict]:
    """Points of the learning curves: the metrics of a few test images, of different patients, segmented as at the end."""
    count = min(config.inference.evaluation_images, len(place.test.names))
    few = place.test.subset(interleave_groups(place.test)[:count])
    found = evaluate(predictions(state.average, few, config, place.on_batch), few, config)["trial"]
    return [{"metric": metric, "value": value} for metric, value in found.items()]


def _of(
    state, folder: Path, found: Iterator[Prediction], search: State | None = None, pruned: str | None = None
) -> _Fitted:
    """search: the training that found how long to train, if there was one. pruned: why the training ended early."""
    return _Fitted(
        predictions=found,
        parameters=sum(parameter.numel() for parameter in state.network.parameters()),
        seconds=state.seconds + (search.seconds if search else 0.0),
        resumed=state.resumed + (search.resumed if search else 0.0),
        steps=state.step,
        curves=(curves(search) if search else []) + state.curves + [row for row in state.snapshots if "metric" in row],
        timesteps=[row for row in state.snapshots if "t" in row],
        pruned=pruned,
        micro_batch=getattr(state, "micro_batch", None),
        checkpoint=checkpoints.newest(folder, state.step),
    )


def _together(members: list[_Fitted]) -> _Fitted:
    """A deep ensemble. Its training time is what was not done by its members' own trials."""
    return _Fitted(
        predictions=(pooled(same) for same in zip(*(member.predictions for member in members), strict=True)),
        parameters=sum(member.parameters for member in members),
        seconds=sum(member.seconds - member.resumed for member in members),
        resumed=0.0,
        steps=sum(member.steps for member in members),
        curves=[],
        timesteps=[],
    )


def _execution(config: Config, device: torch.device) -> dict:
    """What the network was trained in, on this device."""
    if config.network.name == "nnunet":  # which decides itself
        return {}
    return {"precision": precision(config, device), "compiled": compiles(config, device)}


def _outcome(
    fitted: _Fitted, dataset: Dataset, config: Config, device: torch.device, rows: dict, evaluate_seconds: float
) -> Outcome:
    cuda = device.type == "cuda"
    trial = {
        "parameters": fitted.parameters,
        "steps": fitted.steps,
        "train_images": len(dataset.train.names),
        "test_images": len(dataset.test.names),
        "data_digest": dataset.digest,
        "scaling": json.dumps(asdict(dataset.train.scaling)),
        "micro_batch": fitted.micro_batch,
        "checkpoint": fitted.checkpoint,
        "train_seconds": fitted.seconds,
        "resumed_seconds": fitted.resumed,
        "evaluate_seconds": evaluate_seconds,
        "peak_memory_bytes": torch.cuda.max_memory_allocated(device) if cuda else 0,
        **_execution(config, device),
        "device": torch.cuda.get_device_name(device) if cuda else f"cpu, {torch.get_num_threads()} threads",
    }
    if "left_out" in rows:
        trial["left_out"] = json.dumps(rows["left_out"])
    return Outcome(
        trial=trial | rows.get("trial", {}),
        curves=fitted.curves,
        timesteps=fitted.timesteps,
        pruned=fitted.pruned,
        **{table: found for table, found in rows.items() if table not in ("trial", "left_out")},
    )
