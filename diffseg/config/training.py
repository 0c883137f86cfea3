"""Settings of the training."""

from typing import Literal

from pydantic import Field

from diffseg.section import Fraction, Positive, PositiveInt, Section


# fmt: off
class Training(Section):
    """Settings of the training loop: optimiser, learning rate, precision, and how often it records and saves."""

    steps: PositiveInt = Field(60_000, description="Optimiser steps.")
    batch: PositiveInt = Field(10, description="Images per optimiser step.")
    optimiser: Literal["adam", "adamw"] = Field("adamw", description="Optimiser: Adam, or AdamW with decoupled weight decay.")
    learning_rate: Positive = Field(1e-4, description="Learning rate after the warm-up.")
    weight_decay: float = Field(0.0, ge=0, description="Weight decay of the optimiser.")
    warmup: int = Field(0, ge=0, description="Steps over which the learning rate rises linearly from 0.")
    decay: Literal["constant", "linear", "cosine"] = Field("constant",
        description="Course of the learning rate after the warm-up; linear and cosine reach 0 at the last step.")
    decay_steps: PositiveInt | None = Field(None,
        description="Number of last steps over which the learning rate falls. None: all steps after the warm-up.")
    clip: Positive | None = Field(None, description="Largest norm of the gradient; longer ones are scaled down. None: no limit.")
    ema: float = Field(0.9999, ge=0, lt=1,
        description="Decay per step of the weights' moving average, warmed up as (1 + n)/(10 + n). 0: no average.")
    ema_copies: int = Field(0, ge=0, le=256,
        description="Copies of two averages that training keeps, from which inference.ema_length makes others. 32 make lengths of "
                    "0.03 to 0.15 within 0.001. 0: none.")
    precision: Literal["float32", "bf16"] = Field("bf16",
        description="bf16: autocast on devices that compute in it, float32 on others. float32: everywhere.")
    compile: bool | None = Field(None,
        description="Whether to use torch.compile. None: for long trainings on devices where it was measured to pay.")
    validation: float = Field(0.0, ge=0, lt=1,
        description="Share of the training images on which E1 first finds its number of epochs. 0: train for training.steps.")
    snapshots: tuple[Fraction, ...] = Field((0.75, 1.0),
        description="Shares of the steps after which the errors over the noise levels are measured.")
    evaluations: tuple[Fraction, ...] = Field((),
        description="Shares of the steps after which some test images are segmented, for the learning curves (E1, E2).")
    log_every: PositiveInt = Field(50, description="Steps between two points of the learning curves.")
    checkpoint_every: PositiveInt = Field(1000, description="Steps between two checkpoints.")
