"""Settings of prediction and of what is measured."""

from typing import Literal, Self

from pydantic import Field, model_validator

from diffseg.section import Curve, Fraction, Positive, PositiveInt, Section, Seed, Users, check_curve

X0_STEPS = 10  # sampling steps with the x0-target: more make IoU, ECE and GED worse (README, "How many steps")
LEAST_KL_STEPS = 200  # more would take long to optimise, and gain nothing over other grids
TWICE = ("heun", "flow-heun")  # samplers that evaluate the network twice a step, but once in the last
MEASURED = {"batch", "timesteps", "timestep_images"}  # settings that the errors over the noise levels depend on
USERS: Users = {  # setting → the choices that use it; with others it is at its default
    "eta": {"sampler": ("ddim",)},
    "curve": {"grid": ("curve",)},
}


RISK_USERS: Users = {"level": {"metric": ("fnr",)}}


# fmt: off
class Risk(Section):
    """A limit of the risk, by which the threshold is chosen (diffseg/evaluation/risk.py)."""

    metric: Literal["none", "fnr"] = Field("none",
        description="Loss of a patient whose expectation is limited. fnr: the share of the mask that is not marked.")
    level: float = Field(0.1, gt=0, lt=1, description="Largest expected loss.")


class Inference(Section):
    """Settings of prediction: sampler, ensemble, tiles, and which test images are measured and kept."""

    sampler: Literal["ancestral", "ddim", "dpm-solver++", "sde-dpm-solver++", "heun", "flow-heun"] = Field("ancestral",
        description="Sampler of the reverse process. heun takes its steps in σ/α, flow-heun along straight paths.")
    eta: Fraction = Field(0.0, description="Noise of ddim's steps. 0: none; 1: as ancestral sampling with the small variance.")
    steps: PositiveInt | None = Field(None,
        description=f"Network evaluations per sample. None: {X0_STEPS} with the x0-target, the chain's T with other targets.")
    grid: Literal["uniform", "log-snr", "edm", "entropic", "least-kl", "curve"] = Field("uniform",
        description="Noise levels of the steps. uniform: equal steps of t; log-snr: of the log-SNR; edm: of σ^(1/7); entropic: "
                    "of information, and least-kl: least loss of discretisation, by the errors that the training met; curve: of "
                    "the area under inference.curve.")
    curve: Curve = Field((), description="Curve of the grid curve, such as a fingerprint: knots [log-SNR, weight].")
    epsilon_scale: Positive = Field(1.0,
        description="Divisor of the noise that a step finds, which networks overestimate in what they sampled themselves.")
    ema_length: float | None = Field(None, ge=0.02, le=0.25,
        description="Standard deviation of the weights' average that predicts, as a share of the training. None: training.ema.")
    settled: PositiveInt | None = Field(None,
        description="Stop denoising a sample once its mask has not changed for this number of steps. None: never stop early.")
    clip: Literal["coding", "pm1", "none"] = Field("coding",
        description="Range that x̂0 is clipped to while sampling: that of the mask coding, [−1, 1], or none.")
    ensemble: PositiveInt = Field(5, description="Predictions per image.")
    dropout: bool = Field(False,
        description="Whether the network keeps dropping units at random, others for each member (Monte Carlo dropout, E1).")
    seeds: tuple[Seed, ...] = Field((), description="Seeds of the trials that form a deep ensemble (E1). Empty: no deep ensemble.")
    merge: Literal["mean", "vote", "staple"] = Field("mean",
        description="How an ensemble is merged: mean of its probabilities; mean, or STAPLE, of its masks cut at the threshold.")
    threshold: Fraction = Field(0.5,
        description="Probability above which a pixel is foreground. Of several exclusive classes, it has the most probable one.")
    risk: Risk = Field(Risk(), description="A limit of the risk, by which the threshold is chosen on data.calibration.")
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
    # fmt: on

    @model_validator(mode="after")
    def _check_sampling(self) -> Self:
        check_curve("inference.curve", self.curve)
        if self.grid == "curve" and len(self.curve) < 2:
            raise ValueError("grid curve needs inference.curve, two or more knots [log-SNR, weight]")
        if self.settled and self.sampler in TWICE:
            raise ValueError(f"settled counts single evaluations, but sampler {self.sampler} makes two a step: leave settled out")
        return self
