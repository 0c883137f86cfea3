"""nnU-Net v2 (Isensee et al., 2021) by nnunetv2's own planner, preprocessor, trainer and predictor, for E1.

Its loop over epochs is here, so that it stops, resumes and reports as our own does; what happens in a step is nnunetv2's.
On a CPU its batches are drawn in this process and seeded by the epoch, so that a resumed training ends bit for bit as
one that was not stopped; on a GPU they come from processes of nnunetv2's own, whose order is not fixed.
"""

import contextlib
import io
import json
import logging
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch import nn

from diffseg.config import Config
from diffseg.data.splits import Split
from diffseg.errors import Diverged, Stopped, UserError
from diffseg.prediction.merging import Prediction
from diffseg.prediction.resolution import restored
from diffseg.randomness import seed_of
from diffseg.training import checkpoints
from diffseg.training.loop import Hooks

log = logging.getLogger(__name__)
NAME, SPACING = "Dataset001_diffseg", (999, 1, 1)  # as nnunetv2 knows a 2-D set without physical size


@dataclass
class State:
    """A training under way, or done."""

    network: nn.Module
    predictor: object  # nnunetv2's
    step: int = 0
    seconds: float = 0.0  # of training
    resumed: float = 0.0  # of them, those before this start
    curves: list[dict] = field(default_factory=list)
    snapshots: list[dict] = field(default_factory=list)  # none: it denoises nothing


def train(config: Config, split: Split, folder: Path, device: torch.device, hooks: Hooks = Hooks()) -> State:
    """Prepare the data, plan and train in the folder, from the last checkpoint in it if there is one.

    Raises Stopped (with the last epoch's checkpoint left) when asked to stop, Diverged if the loss is not finite.
    """
    work = folder / "nnunet"
    with _output_to_log(), _environment(work, workers=None if device.type == "cuda" else 0):
        if not work.exists():
            _prepare(split, work)
        state, trainer = _start(config, folder, device)
        trainer.dataloader_train, trainer.dataloader_val = trainer.get_dataloaders()
        trainer.set_deep_supervision_enabled(True)
        try:
            for epoch in range(state.step // config.network.iterations, config.network.epochs):
                _epoch(state, trainer, config, epoch, hooks)
                _save(state, trainer, folder)
        finally:
            for loader in (trainer.dataloader_train, trainer.dataloader_val):
                getattr(loader, "_finish", lambda: None)()  # of the processes that a GPU's batches come from
        trainer.set_deep_supervision_enabled(False)
    return state


def load(config: Config, folder: Path, device: torch.device, checkpoint: str | None = None) -> State:
    """A finished training in the folder; nothing is written there. checkpoint: the file that it ended with, if it is known.

    Raises UserError if nnunetv2's plans or that checkpoint cannot be used.
    """
    checkpoints.final(folder, checkpoint, config.steps, device, None)  # before nnunetv2 takes its time
    with tempfile.TemporaryDirectory() as results, _output_to_log(), _environment(folder / "nnunet", 0, Path(results)):
        try:
            trainer = _trainer(config, device)
        except Exception as error:  # nnunetv2 has none of its own for plans that are missing or damaged
            raise UserError(
                f"nnU-Net's plans in {folder / 'nnunet'} cannot be used ({type(error).__name__}: {error}): bring them back, or "
                "run the trial again in a study of another name"
            ) from None
        saved = checkpoints.final(folder, checkpoint, config.steps, device, trainer.network)
        trainer.network.load_state_dict(saved["network"])
        trainer.set_deep_supervision_enabled(False)
    return State(trainer.network, _predictor(trainer, config), saved["step"])


def predictions(
    state: State, split: Split, config: Config, on_batch: Callable[[], None] = lambda: None
) -> Iterator[Prediction]:
    """The probability of the foreground in every image of a split; one prediction each, so without spread."""
    state.network.eval()
    state.predictor.list_of_parameters = [state.network.state_dict()]  # it would average over folds
    for index, image in enumerate(split.images):
        on_batch()
        pixels = _numbers(split, index, image)[:, None].astype(np.float32)
        with _output_to_log():
            _, found = state.predictor.predict_single_npy_array(pixels, {"spacing": SPACING}, None, None, True)
        maps = torch.from_numpy(np.ascontiguousarray(found[1])).to(split.device)
        mean = restored(maps, split, index, config)[0]
        yield Prediction(index, mean, torch.zeros_like(mean), mean[None] > config.inference.threshold, torch.ones(()))


def planned(size: int, images: int | None, channels: int = 3) -> tuple[nn.Module, int]:
    """(network on the meta device, batch) that nnU-Net would plan for so many square images, for estimates without data."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet
    from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props

    images = images or 900  # about ISIC16's
    _, strides, kernels, patch, _ = get_pool_and_conv_props((1, 1), (size, size), 4, 999999)
    stages = len(strides)
    with torch.device("meta"):
        network = PlainConvUNet(
            input_channels=channels,
            n_stages=stages,
            features_per_stage=[min(512, 32 * 2**stage) for stage in range(stages)],
            conv_op=nn.Conv2d,
            kernel_sizes=kernels,
            strides=strides,
            n_conv_per_stage=2,
            num_classes=2,
            n_conv_per_stage_decoder=2,
            conv_bias=True,
            norm_op=nn.InstanceNorm2d,
            norm_op_kwargs={"eps": 1e-5, "affine": True},
            nonlin=nn.LeakyReLU,
            deep_supervision=False,
        )
    fits = 12 * 85_000_000 / network.compute_conv_feature_map_size(patch)  # nnU-Net's reference for 8 GB
    return network, max(2, min(round(fits), round(0.05 * images)))


def _prepare(split: Split, work: Path) -> None:
    """Raw data, fingerprint, plans, preprocessed data: all of it, or, after a kill, nothing."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess

    shutil.rmtree(work.with_suffix(".tmp"), ignore_errors=True)
    processes = max(1, torch.get_num_threads())
    with _environment(work.with_suffix(".tmp"), workers=processes):
        _write_raw(split, work.with_suffix(".tmp") / "raw" / NAME)
        extract_fingerprints([1], num_processes=processes, show_progress_bar=False)
        plan_experiments([1])
        preprocess([1], configurations=("2d",), num_processes=(processes,), show_progress_bar=False)
    work.with_suffix(".tmp").rename(work)


def _write_raw(split: Split, root: Path) -> None:
    for kind in ("imagesTr", "labelsTr"):
        (root / kind).mkdir(parents=True)
    cases, ending = {}, ".png" if split.case_statistics is None else ".tif"
    for index, (image, masks) in enumerate(zip(split.images, split.masks, strict=True)):
        case = f"case{index:06d}"
        names = [f"imagesTr/{case}_{channel:04d}{ending}" for channel in range(len(image))]
        cases[case] = {"images": names, "label": f"labelsTr/{case}{ending}"}
        for name, pixels in zip(names, _numbers(split, index, image), strict=True):
            Image.fromarray(pixels).save(root / name)
        majority = masks.float().mean(0) > 0.5
        Image.fromarray(majority.byte().cpu().numpy()).save(root / cases[case]["label"])
    description = {
        # nnunetv2 normalises each image by its own mean and deviation, unless a channel is called noNorm
        "channel_names": {
            str(channel): f"channel {channel}" if split.case_statistics is None else "noNorm"
            for channel in range(split.images.channels)
        },
        "labels": {"background": 0, "foreground": 1},
        "numTraining": len(split.names),
        "file_ending": ending,
        "overwrite_image_reader_writer": "NaturalImage2DIO",
        "dataset": cases,  # or nnunetv2 lists the files in forked processes, which can hang where there are threads
    }
    (root / "dataset.json").write_text(json.dumps(description), encoding="utf-8")


def _numbers(split: Split, index: int, image: torch.Tensor) -> np.ndarray:
    """[C, H, W] of the index-th image: its pixels, or with data.normalise=case float32 that its whole case normalises."""
    if split.case_statistics is None:
        return image.cpu().numpy()
    which = torch.tensor([index], device=split.device)
    return split.prepare_inputs(image[None].to(split.device), which)[0, : split.images.channels].cpu().numpy()


def _trainer(config: Config, device: torch.device):
    from nnunetv2.run.run_training import get_trainer_from_args

    torch.manual_seed(config.seed)
    # Ray Train's process group of this one worker is none of nnunetv2's, which would take a GPU by its rank
    with mock.patch("torch.distributed.is_initialized", return_value=False):
        trainer = get_trainer_from_args("1", "2d", "all", device=device)
    trainer.num_epochs = config.network.epochs
    trainer.num_iterations_per_epoch = config.network.iterations
    trainer.initial_lr = config.network.learning_rate
    trainer.initialize()
    return trainer


def _start(config: Config, folder: Path, device: torch.device):
    """(state, nnunetv2's trainer) to go on from."""
    trainer = _trainer(config, device)
    state = State(trainer.network, _predictor(trainer, config))
    _restore(state, trainer, folder, device)
    return state, trainer


def _predictor(trainer, config: Config):
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        use_mirroring=config.network.mirroring,
        device=trainer.device,
        allow_tqdm=False,
    )
    axes = (0, 1) if config.network.mirroring else None
    plans, configuration, description = trainer.plans_manager, trainer.configuration_manager, trainer.dataset_json
    predictor.manual_initialization(trainer.network, plans, configuration, None, description, "nnUNetTrainer", axes)
    return predictor


def _epoch(state: State, trainer, config: Config, epoch: int, hooks: Hooks) -> None:
    clock, losses = time.perf_counter(), []
    np.random.seed(seed_of(config.seed, "nnunet", epoch) % 2**32)  # noqa: NPY002  nnunetv2 draws from the global ones
    torch.manual_seed(seed_of(config.seed, "nnunet", epoch))
    trainer.current_epoch = epoch
    trainer.network.train()
    trainer.lr_scheduler.step(epoch)
    for _ in range(config.network.iterations):
        losses.append(trainer.train_step(next(trainer.dataloader_train))["loss"])
        if hooks.should_stop():
            raise Stopped(f"stopped in epoch {epoch + 1} of {config.network.epochs}")
    state.step += config.network.iterations
    state.seconds += time.perf_counter() - clock
    loss = float(np.mean(losses))
    if not math.isfinite(loss):
        raise Diverged(f"the loss is {loss} in epoch {epoch + 1}: lower network.learning_rate")
    metrics = {"loss": loss, "learning_rate": trainer.optimizer.param_groups[0]["lr"]}
    state.curves += [{"step": state.step, "metric": metric, "value": value} for metric, value in metrics.items()]
    hooks.on_log(state.step, metrics)


def _save(state: State, trainer, folder: Path) -> None:
    saved = {"step": state.step, "seconds": state.seconds, "curves": state.curves}
    saved |= {"network": state.network.state_dict(), "optimiser": trainer.optimizer.state_dict()}
    if trainer.grad_scaler is not None:
        saved["scaler"] = trainer.grad_scaler.state_dict()
    checkpoints.save(folder, state.step, saved)


def _restore(state: State, trainer, folder: Path, device: torch.device) -> None:
    saved = checkpoints.load(folder, device, state.network)
    if saved is None:
        return
    state.step, state.curves = saved["step"], saved["curves"]
    state.seconds = state.resumed = saved["seconds"]
    state.network.load_state_dict(saved["network"])
    trainer.optimizer.load_state_dict(saved["optimiser"])
    if trainer.grad_scaler is not None:
        trainer.grad_scaler.load_state_dict(saved["scaler"])


@contextlib.contextmanager
def _environment(work: Path, workers: int | None, results: Path | None = None):
    """nnunetv2 takes its folders and settings from the environment. workers: processes that draw batches; 0 for this one.
    results: where it writes, if not into `work`."""
    wanted = {f"nnUNet_{kind}": str(work / kind) for kind in ("raw", "preprocessed", "results")}
    if results:
        wanted["nnUNet_results"] = str(results)
    wanted["nnUNet_compile"] = "f"
    if workers is not None:
        wanted["nnUNet_n_proc_DA"] = str(workers)
    before = {key: os.environ.get(key) for key in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.__setitem__(key, value)


class _Lines(io.TextIOBase):
    def write(self, text: str) -> int:
        if text.strip():
            log.info("%s", text.rstrip())
        return len(text)


@contextlib.contextmanager
def _output_to_log():
    """What nnunetv2 prints becomes part of the trial's log."""
    with contextlib.redirect_stdout(_Lines()):
        yield
