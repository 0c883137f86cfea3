"""Settings of prediction and of what is measured."""

from typing import Literal

from pydantic import Field

from diffseg.section import Fraction, PositiveInt, Section, Seed, Users

X0_STEPS = 10  # sampling steps with the x0-target: more make IoU, ECE and GED worse (README, "How many steps")
MEASURED = {"batch", "timesteps", "timestep_images"}  # settings that the errors over the noise levels depend on
USERS: Users = {"eta": {"sampler": ("ddim",)}}  # setting → the choices that use it; with others it is at its default


# fmt: off
class Inference(Section):
    """Settings of prediction: sampler, ensemble, tiles, and which test images are measured and kept."""

    sampler: Literal["ancestral", "ddim", "dpm-solver++"] = Field("ancestral", description="Sampler of the reverse process.")
    eta: Fraction = Field(0.0, description="Noise of ddim's steps. 0: none; 1: as ancestral sampling with the small variance.")
    steps: PositiveInt | None = Field(None,
        description=f"Network evaluations per sample. None: {X0_STEPS} with the x0-target, the chain's T with other targets.")
    settled: PositiveInt | None = Field(None,
        description="Stop denoising a sample once its mask has not changed for this number of steps. None: never stop early.")
    clip: Literal["coding", "pm1", "none"] = Field("coding",
        description="Range that x̂0 is clipped to while sampling: that of the mask coding, [−1, 1], or none.")
    ensemble: PositiveInt = Field(5, description="Predictions per image.")
    seeds: tuple[Seed, ...] = Field((), description="Seeds of the trials that form a deep ensemble (E1). Empty: no deep ensemble.")
    merge: Literal["mean", "vote", "staple"] = Field("mean",
        description="How an ensemble is merged: mean of its probabilities; mean, or STAPLE, of its masks cut at the threshold.")
    threshold: Fraction = Field(0.5,
        description="Probability above which a pixel is foreground. Of several exclusive classes, it has the most probable one.")
    augment: Literal["none", "symmetries"] = Field("none",
        description="Test-time augmentation. symmetries: the members see the square's eight symmetries in turn.")
    batch: PositiveInt = Field(64, description="Tiles × members that are predicted at once.")
    overlap: float = Field(0.5, ge=0, lt=1, description="Overlap of neighbouring tiles, as a share of their side (data.fit=crop).")
    timesteps: int = Field(50, ge=2, description="Number of noise levels at which errors are measured.")
    timestep_images: PositiveInt = Field(64,
        description="Test images or crops, each with one noise, that those errors are averaged over.")
    resolution: Literal["network", "original"] = Field("network",
        description="Resolution at which predictions are compared with the masks: the network's, or that of the image files.")
    nsd_tolerance: float = Field(2.0, ge=0,
        description="Distance between contours that the metric nsd allows: mm if the spacing of all test images is known, else px.")
    evaluation_images: PositiveInt = Field(16, description="First test images that training.evaluations are averaged over.")
    examples: int = Field(4, ge=0, description="Test images, evenly spread, whose maps are kept for the report.")
