"""Settings of nnU-Net."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from diffseg.networks.protocol import Implementation, NetworkSettings
from diffseg.section import Positive, PositiveInt

if TYPE_CHECKING:
    from diffseg.config import Training

PREDICTION = (  # settings of `inference` that nnunetv2's own predictor does not use
    *(
        "sampler",
        "eta",
        "steps",
        "grid",
        "curve",
        "epsilon_scale",
        "ema_length",
        "settled",
        "clip",
        "ensemble",
        "merge",
        "dropout",
    ),
    *("augment", "batch", "overlap", "timesteps", "timestep_images", "resolution", "evaluation_images"),
)


class NNUNet(NetworkSettings):
    """Settings of nnU-Net (Isensee et al., 2021); plans, batch, losses and augmentation are its own."""

    summary: ClassVar[str] = "nnunetv2's own planner, preprocessor, trainer and predictor"
    citation: ClassVar[str] = "Isensee et al., 2021"
    experiments: ClassVar[tuple[str, ...]] = ("e1",)
    deterministic: ClassVar[bool] = True
    ignored: ClassVar[tuple[str, ...]] = (
        "diffusion", "head", "training", "data.augment", *(f"inference.{name}" for name in PREDICTION)
    )  # fmt: skip
    reuses_training: ClassVar[bool] = False  # nnunetv2 predicts with plans and data that lie beside its checkpoints
    training_files: ClassVar[tuple[str, ...]] = (  # of preprocessed cases nnunetv2 wants to see one, which it never reads
        "nnunet/raw/*/*Tr/*", "nnunet/preprocessed/*/gt_segmentations/*", "nnunet/preprocessed/*/*/case*[1-9]*.*",
    )  # fmt: skip

    name: Literal["nnunet"] = Field("nnunet", description="Name of the network.")
    epochs: PositiveInt = Field(1000, description="Epochs of the training.")
    iterations: PositiveInt = Field(250, description="Optimiser steps per epoch.")
    learning_rate: Positive = Field(1e-2, description="Learning rate at the start; it falls to 0 as a polynomial.")
    mirroring: bool = Field(True, description="Average predictions of mirrored images (test-time augmentation).")

    def training_steps(self, training: Training) -> int:
        """Return the optimiser steps of a whole training."""
        return self.epochs * self.iterations

    def implementation(self) -> Implementation[NNUNet]:
        """Import the network's own module and return its implementation."""
        from diffseg.networks.nnunet.network import NNUNetImplementation

        return NNUNetImplementation(self)
