"""The settings that suit a data set, a machine and a number of hours, each with its reason."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from studies.auto.inspection import Inspection
from studies.search.recommendation import Choice

SIZES = (32, 64, 128, 256)  # px, that networks are trained at
USUAL_SIZE = 64  # px, below which much is lost of large objects, too
CROP_SIZES = (64, 32)  # px
LEAST_OBJECT = 4.0  # px, below which an object's shape is lost
CROPPED_OBJECT = 6.0  # px that the smallest objects get where images are cut into crops
LEAST_STEPS = 400  # of a training that is worth its size
MOST_STEPS = {"cpu": 4000, "gpu": 20_000}  # beyond which the hours go into a search
BATCH, WIDTH, LEARNING_RATE = 16, 32, 1e-3  # with which the project's own studies were measured
LOWEST_SIDE = 8  # px of the network's lowest level
LEAST_TEST_IMAGES = 20
LONGEST_TEST = 0.25  # share of a trial's time that its prediction of the test images may take

PAPER = {  # the published ε-target, with steps of sampling that the hours allow
    "diffusion.target": "epsilon",
    "diffusion.activation": "identity",
    "diffusion.schedule": "linear",
    "diffusion.input_scale": 1.0,
    "diffusion.weighting": "target",
    "inference.steps": 10,  # no other number is better for all networks, up to 1000 (studies/RESULTS.md)
}


@dataclass(frozen=True)
class Frame:
    """How images become inputs of the network."""

    size: int  # px
    scale: float | None = None  # of images that are cut into crops; None if they are resized as a whole

    def tiles(self, area: float) -> int:
        """Return the number of tiles, about, that an image of an area (px) is predicted in."""
        if self.scale is None:
            return 1
        return max(1, math.ceil(area * self.scale**2 / (0.75 * self.size) ** 2))  # a fourth of their side overlaps


def list_frames(found: Inspection) -> list[Frame]:
    """Return the frames that show the smallest objects, the one to prefer first; if none does, the largest one.

    Images are resized as a whole where objects then have LEAST_OBJECT px, to USUAL_SIZE px or more if the machine can afford it.
    Where that needs more than the largest size, or more than the machine can afford, they are cut into crops, scaled so that
    objects have CROPPED_OBJECT px.
    """
    sizes = [size for size in SIZES if size < 2 * found.side] or [SIZES[0]]
    if found.diameter is None or found.share is None:
        return [Frame(sizes[min(1, len(sizes) - 1)])]
    showing = [size for size in sizes if found.share * size >= LEAST_OBJECT]
    usual = [size for size in showing if size >= min(USUAL_SIZE, sizes[-1])][:1]
    cheaper = [size for size in showing if size < usual[0]]
    scale = min(1.0, CROPPED_OBJECT / found.diameter)
    cut = [size for size in CROP_SIZES if size < min(scale * found.side, showing[0] if showing else math.inf)]
    frames = [Frame(size) for size in usual + cheaper] + [Frame(size, float(f"{scale:.2g}")) for size in cut]
    return frames or [Frame(sizes[-1])]


def choose_frame(frames: list[Frame], fits: Callable[[Frame], bool]) -> Frame:
    """Return the first frame for which enough steps fit into the time; the last one if none does."""
    return next((frame for frame in frames if fits(frame)), frames[-1])


def describe_frame(frame: Frame, found: Inspection) -> Choice:
    """Return the settings of a frame, and its reason."""
    if found.diameter is None or found.share is None:
        return Choice({"data.size": frame.size}, "the masks have no objects to go by")
    smallest = f"a tenth of the objects are below {found.diameter:.0f} px, which"
    if frame.scale is None:
        settings = {"data.size": frame.size, "data.fit": "resize"}
        return Choice(settings, f"{smallest} become {found.share * frame.size:.1f} px")
    settings = {"data.size": frame.size, "data.fit": "crop", "data.scale": frame.scale, "inference.overlap": 0.25}
    words = f"{smallest} become {found.diameter * frame.scale:.1f} px in crops; of whole images at {SIZES[-1]} px"
    return Choice(settings, f"{words} {found.share * SIZES[-1]:.1f} px would remain")


def describe_data(found: Inspection) -> list[Choice]:
    """Return the settings that the files and the objects decide."""
    normalise = "case" if found.volumes else "range"
    why = "volumes have no common unit" if found.volumes else "pictures have one range"
    return [
        Choice(
            {"data.channels": found.channels}, f"the images have {found.channels} channel{'s' * (found.channels > 1)}"
        ),
        Choice({"data.normalise": normalise}, why),
        Choice({"data.augment.flips": found.flips}, found.orientation),
    ]


def choose_network(size: int) -> Choice:
    """Return a U-Net whose lowest level has LOWEST_SIDE px."""
    levels = round(math.log2(size / LOWEST_SIDE)) + 1
    narrow = (levels + 1) // 2
    multipliers = [1] * narrow + [2] * (levels - narrow)
    settings: dict[str, Any] = {
        "network.width": WIDTH,
        "network.multipliers": multipliers,
        "network.blocks": 1,
        "network.attention": [size // LOWEST_SIDE],
    }
    return Choice(settings, f"{levels} levels, of {size} to {LOWEST_SIDE} px, with attention at the lowest")


def describe_training() -> Choice:
    """Return the settings of every training, whatever its length."""
    settings = {
        "training.batch": BATCH,
        "training.learning_rate": LEARNING_RATE,
        "training.decay": "cosine",
        "training.clip": 1.0,
        "training.snapshots": [],
    }
    return Choice(settings, "as in the project's own studies at this width; how many steps follows from the hours")


def choose_steps(steps: int) -> dict[str, Any]:
    """Return the settings of a training of a number of steps: its weights are averaged over about a fifth of them."""
    return {
        "training.steps": steps,
        "training.warmup": min(500, max(1, steps // 20)),
        "training.ema": round(1 - 5 / max(steps, 500), 5),
        "training.log_every": max(1, steps // 50),
        "training.checkpoint_every": max(20, steps // 10),
    }


def choose_test_images(found: Inspection, image_seconds: float, trial_seconds: float) -> Choice | None:
    """Return a limit of the test images if all of them would take too long; None if they do not."""
    kept = max(LEAST_TEST_IMAGES, int(LONGEST_TEST * trial_seconds / image_seconds))
    if kept >= found.test_images:
        return None
    return Choice(
        {"data.test_images": kept},
        f"all {found.test_images} would take {found.test_images * image_seconds / 60:.0f} min",
    )
