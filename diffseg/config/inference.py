"""Settings of prediction and of what is measured."""

from typing import Annotated, Literal

from pydantic import Field

from diffseg.section import Fraction, PositiveInt, Section, Seed

X0_STEPS = 10  # of sampling with the x0-target: more of them make IoU, ECE and GED worse (README, "How many steps")


# fmt: off
class Inference(Section):
    sampler: Literal["ancestral", "ddim", "dpm-solver++"] = "ancestral"
    eta: Fraction = 0.0                                   # of ddim: 0 draws no noise, 1 as much as ancestral with small variance
    steps: PositiveInt | None = None                      # network evaluations a sample; None: X0_STEPS, of others the chain's T
    settled: PositiveInt | None = None                    # end a sample whose mask has been the same for so many steps
    clip: Literal["coding", "pm1", "none"] = "coding"     # of x̂0 while sampling: to the coding's range, to ±1, or not
    ensemble: PositiveInt = 5                             # predictions an image
    seeds: tuple[Seed, ...] = ()  # E1: a deep ensemble of the trials with these seeds
    merge: Literal["mean", "vote", "staple"] = "mean"     # of soft masks; of masks cut at 0.5: their mean, or STAPLE
    threshold: Fraction = 0.5                             # on the merged probability
    augment: Literal["none", "symmetries"] = "none"       # at test time: members see the square's eight symmetries in turn
    batch: PositiveInt = 64                               # tiles × members in one pass
    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.5    # of neighbouring tiles, with data.fit="crop"
    timesteps: Annotated[int, Field(ge=2)] = 50           # noise levels at which errors are measured
    timestep_images: PositiveInt = 64                     # test images (or crops), with a noise each, to average over
    resolution: Literal["network", "original"] = "network"  # at which predictions are compared with the masks
    evaluation_images: PositiveInt = 16                   # first test images that training.evaluations are averaged over
    examples: Annotated[int, Field(ge=0)] = 4             # test images whose maps are kept for the report



# Settings of inference that errors over the noise levels depend on.
MEASURED = {"batch", "timesteps", "timestep_images"}
