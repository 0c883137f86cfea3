"""What a network offers to the rest of the system: its settings, and how it is built, trained and used.

A network is a folder of `diffseg/networks` and a line of `registry.py`:

    settings.py    a NetworkSettings: its settings, and what it declares about itself; imports no torch
    network.py     an Implementation: the torch module, and what the network does in its own way
    presets.toml   its published settings
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from diffseg.errors import ConfigError, Stopped
from diffseg.section import Section

if TYPE_CHECKING:
    import torch
    from torch import nn

    from diffseg.config import Config, Data, Training
    from diffseg.data import Dataset, Split
    from diffseg.labels.labels import Masks
    from diffseg.prediction.merging import Prediction
    from diffseg.training.hooks import Hooks
    from diffseg.training.parallel import Workers

EXPERIMENTS = ("e1", "e2", "e3", "e4")


class NetworkSettings(Section):
    """Settings of a network, and what the network declares about itself.

    A subclass has a field `name`: a Literal with the network's name in the registry, which is also its default.
    """

    summary: ClassVar[str]  # what the network is, in one line
    citation: ClassVar[str]  # author and year, as in the text of a paper
    experiments: ClassVar[tuple[str, ...]] = EXPERIMENTS  # those that the network can take part in
    deterministic: ClassVar[bool] = False  # neither noise nor t goes in: every prediction of an image is the same
    ignored: ClassVar[tuple[str, ...]] = ()  # settings outside `network` that it does not use: dotted paths or sections
    reuses_training: ClassVar[bool] = True  # trials that differ only in how they predict share one training
    training_files: ClassVar[tuple[str, ...]] = ()  # patterns of files in a trial's folder that only training needs
    stands_in: ClassVar[bool] = False  # may measure fingerprints for other U-Nets: diffusion.fingerprint_networks
    unordered_sums: ClassVar[bool] = False  # GPUs add its gradients in no fixed order, unless torch is asked for one
    peers: ClassVar[
        tuple[str, ...]
    ] = ()  # libraries with a network of the same structure, which `diffseg bench` compares

    if TYPE_CHECKING:  # only the subclasses have the field: here it would change the order of theirs
        name: str = ""

    @classmethod
    def folder(cls) -> Path:
        """Return the folder that holds the network's files."""
        return Path(sys.modules[cls.__module__].__file__ or "").parent

    @property
    def divisor(self) -> int:
        """The number that sides of images must be a multiple of."""
        return 1

    def check_size(self, size: int) -> None:
        """Raise ConfigError if images of `size` px do not pass the network's downsamplings."""
        factor = self.divisor
        if size % factor:
            near = sorted({max(factor, size // factor * factor), (size // factor + 1) * factor})
            raise ConfigError(
                f"data.size is {size}, but {self.name} with these settings needs a multiple of {factor}: "
                f"set data.size={' or data.size='.join(map(str, near))}"
            )

    def training_steps(self, training: Training) -> int:
        """Return the optimiser steps of a whole training, at most."""
        return training.steps * (2 if training.validation else 1)

    def implementation(self) -> Implementation[Any]:
        """Import the network's own module and return its implementation."""
        raise NotImplementedError(f"{type(self).__name__} has no implementation")


@dataclass(frozen=True)
class Dimensions:
    """Channels and size that a network is built for; the defaults are those of most published networks."""

    channels: int = 1  # of x_t
    image_channels: int = 3  # of the conditioning image; 0: the network is given no image
    out_channels: int = 1
    size: int = 256  # side of the training images, px
    mask_channels: int = 1  # of masks with one channel a class


@dataclass(frozen=True)
class RunContext:
    """The data, the device, the hooks and the workers that a training runs with."""

    dataset: Dataset
    training: Split
    test: Split
    device: torch.device
    hooks: Hooks
    workers: Workers
    calibration: Split | None = None  # images to choose a threshold by

    def on_batch(self) -> None:
        """Raise Stopped if the run is to stop."""
        if self.hooks.should_stop():
            raise Stopped("stopped while evaluating")


@dataclass(frozen=True)
class TrainedNetwork:
    """One or several trained networks, their predictions of the test images, and what their training recorded."""

    predictions: Iterator[Prediction]
    parameters: int
    seconds: float  # of training
    resumed: float  # those of them that earlier sessions spent
    steps: int
    curves: list[dict[str, Any]]
    timesteps: list[dict[str, Any]]
    pruned: str | None = None  # why the training ended early, if it did
    micro_batch: int | None = None  # images that were trained on at once; None if the network decides itself
    execution: str | None = None  # how training steps ran: eager, graph or compiled; None if the network decides itself
    checkpoint: str | None = None  # file that the training ended with; None for ensembles, or if it could not be saved
    calibration: Iterable[Prediction] = ()  # predictions of the images to choose a threshold by


S = TypeVar("S", bound=NetworkSettings)


class Implementation(Generic[S]):
    """How a network is built, trained and used.

    Only `build` has to be given: the rest is the common way, which a network may replace. The module is called as
    `module(x_t, t, image)` and returns [B, out_channels, H, W]; image is None for Dimensions.image_channels = 0. It may
    also have

    - `image_features(image)`, a tuple of tensors [B, …] that depend on the image alone: sampling computes them once and
      passes them back as `module(x_t, t, image, features=…)`;
    - `load_pretrained()`, which a training that starts afresh calls once.
    """

    extra_output: ClassVar[bool] = False  # `module(…, extra=True)` returns (output, extra) for `extra_loss`

    def __init__(self, settings: S):
        self.settings = settings

    def build(self, dimensions: Dimensions) -> nn.Module:
        """Return the module with fresh weights, drawn from torch's global generator."""
        raise NotImplementedError(f"{self.settings.name} builds no module: it trains and predicts in its own way")

    def extra_loss(self, extra: torch.Tensor, masks: Masks) -> torch.Tensor:
        """Return the weighted loss [] of the extra output, which is added to the experiment's."""
        raise NotImplementedError(f"{self.settings.name} has no extra output")

    def fit(self, config: Config, folder: Path, context: RunContext) -> TrainedNetwork:
        """Train to the end, resuming from the checkpoints in `folder`.

        Raises Stopped when asked to stop, Diverged for a loss that is not finite, UserError for what cannot be trained.
        """
        from diffseg.networks import common

        return common.fit(config, folder, context)

    def load(
        self, config: Config, folder: Path, device: torch.device, checkpoint: str | None
    ) -> Callable[[Split, Config], Iterator[Prediction]]:
        """Return a function that predicts a split with the trained network in `folder`.

        checkpoint: the file that the training ended with; None for the newest one. Nothing is written.
        Raises UserError for a checkpoint that is missing, damaged or another network's.
        """
        from diffseg.networks import common

        return common.load(config, folder, device, checkpoint)

    def execution(self, config: Config, device: torch.device) -> dict[str, Any]:
        """Return how the network is computed on the device, as columns of the ledger; none if it decides itself."""
        from diffseg.networks import common

        return common.execution(config, device)

    def plan(self, data: Data) -> tuple[nn.Module, int] | None:
        """Return (a module of images on the meta device, batch) for an estimate of the cost.

        None: the module is that of `build`, and the batch is training.batch.
        """
        return None

    def evaluations_per_image(self, config: Config) -> int:
        """Return the forward passes that predict one image of the network's size."""
        if config.head.kind != "none" and not config.inference.dropout:  # the head samples from each view of the image
            return min(8, config.inference.ensemble) if config.inference.augment == "symmetries" else 1
        return config.inference.ensemble * (1 if config.experiment == "e1" else config.inference.steps or 1)
