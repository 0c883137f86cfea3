"""Settings of the training."""

from typing import Annotated, Literal

from pydantic import Field

from diffseg.section import Fraction, Positive, PositiveInt, Section


# fmt: off
class Training(Section):
    steps: PositiveInt = 60_000
    batch: PositiveInt = 10
    optimiser: Literal["adam", "adamw"] = "adamw"
    learning_rate: Positive = 1e-4
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    warmup: Annotated[int, Field(ge=0)] = 0               # steps of linear rise of the learning rate
    decay: Literal["constant", "linear", "cosine"] = "constant"  # of the learning rate, to 0 at the last step
    decay_steps: PositiveInt | None = None                # it falls over so many last steps; all after the warm-up if None
    clip: Positive | None = None                          # largest norm of the gradient
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.9999     # decay per step, warmed up as (1 + n)/(10 + n); 0: no EMA
    precision: Literal["float32", "bf16"] = "bf16"        # bf16: autocast where the device computes in it, else float32
    compile: bool | None = None                           # torch.compile; None: long trainings, where it has been seen to pay
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.0 # E1: share of the images that first finds the number of epochs
    snapshots: tuple[Fraction, ...] = (0.75, 1.0)         # shares of the steps at which errors over t are measured
    evaluations: tuple[Fraction, ...] = ()                # E1, E2: shares of the steps at which test images are segmented
    log_every: PositiveInt = 50                           # steps between points of the learning curve
    checkpoint_every: PositiveInt = 1000                  # steps between checkpoints
