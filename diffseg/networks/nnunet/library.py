"""nnunetv2's own trainer and predictor, and the environment that it takes its folders and settings from."""

import contextlib
import io
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from diffseg.networks.nnunet.settings import NNUNet

log = logging.getLogger(__name__)


def make_trainer(settings: NNUNet, seed: int, device: torch.device) -> Any:
    """Return nnunetv2's trainer, initialised with weights drawn from the seed."""
    from nnunetv2.run.run_training import get_trainer_from_args

    torch.manual_seed(seed)
    # nnunetv2 would take a GPU by the rank in Ray Train's process group, which is not its own.
    with mock.patch("torch.distributed.is_initialized", return_value=False):
        trainer = get_trainer_from_args("1", "2d", "all", device=device)
    trainer.num_epochs = settings.epochs
    trainer.num_iterations_per_epoch = settings.iterations
    trainer.initial_lr = settings.learning_rate
    trainer.initialize()
    return trainer


def make_predictor(trainer: Any, settings: NNUNet) -> Any:
    """Return nnunetv2's predictor for the trainer's network."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(use_mirroring=settings.mirroring, device=trainer.device, allow_tqdm=False)
    axes = (0, 1) if settings.mirroring else None
    plans, configuration, description = trainer.plans_manager, trainer.configuration_manager, trainer.dataset_json
    predictor.manual_initialization(trainer.network, plans, configuration, None, description, "nnUNetTrainer", axes)
    return predictor


@contextlib.contextmanager
def environment(work: Path, workers: int | None, results: Path | None = None) -> Iterator[None]:
    """Set the environment variables that nnunetv2 reads, and restore them afterwards.

    workers: processes that draw batches; 0: this process; None: nnunetv2's own number. results: the folder that nnunetv2
    writes to, if it is not in `work`.
    """
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
            if value is None:
                os.environ.pop(key)
            else:
                os.environ[key] = value


class _Lines(io.TextIOBase):
    """A text stream that writes into the log."""

    def write(self, text: str) -> int:
        if text.strip():
            log.info("%s", text.rstrip())
        return len(text)


@contextlib.contextmanager
def output_to_log() -> Iterator[None]:
    """Make what nnunetv2 prints part of the trial's log."""
    with contextlib.redirect_stdout(_Lines()):
        yield
