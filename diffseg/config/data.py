"""Settings of a data set: layout, size, channels, foreground, splits and augmentation."""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from diffseg.section import Fraction, Positive, PositiveInt, Section

LAYOUTS = ("isic16", "monuseg", "lidc", "brats", "folder", "synthetic")


def _foreground(value: Any) -> Any:
    """A list of numbers and colours, "nonzero" or ">=N". Raises ValueError for anything else."""
    if isinstance(value, str) and re.fullmatch(r"nonzero|>=[1-9][0-9]{0,8}", value):
        return value
    fits = isinstance(value, list | tuple) and all(
        (isinstance(one, int) and not isinstance(one, bool) and one >= 0)
        or (isinstance(one, str) and re.fullmatch("#[0-9a-fA-F]{6}", one))
        for one in value
    )
    if not fits:
        raise ValueError(
            'allowed are a list of the values of the foreground, such as [2, 3] or ["#ff0000"], '
            '"nonzero", and ">=N", such as ">=128"'
        )
    return tuple(one.lower() if isinstance(one, str) else one for one in value)


Foreground = Annotated[tuple[int | str, ...] | str, BeforeValidator(_foreground)]


# fmt: off
class Augment(Section):
    """Of training images and masks, drawn anew for each."""
    flips: Literal["none", "horizontal", "both", "symmetries"] = "none"  # left–right; also up–down; also quarter turns
    degrees: Annotated[float, Field(ge=0, le=180)] = 0.0  # rotation by up to so many, either way
    zoom: tuple[Positive, Positive] = (1.0, 1.0)          # range of the magnification
    brightness: Fraction = 0.0                            # factors 1 ± up to this, as in torchvision's ColorJitter
    contrast: Fraction = 0.0
    saturation: Fraction = 0.0
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0      # turn of the colour circle, as a share of it, either way

    @model_validator(mode="after")
    def _ordered(self):
        if self.zoom[0] > self.zoom[1]:
            raise ValueError(f"zoom is {list(self.zoom)}, but its first value must not be above the second")
        return self



class Data(Section):
    name: str = Field("synthetic-large", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")  # the root is given as `--data NAME=ROOT`
    layout: Literal[LAYOUTS] = "synthetic"
    kind: Literal["large", "many", "clusters"] = "large"  # of object, for the synthetic layout only
    size: Annotated[int, Field(ge=8)] = 64                # side of the square that the network sees, px
    channels: PositiveInt = 3                             # that the network takes; gray images are repeated
    foreground: Foreground = ()                           # of masks: values or "#rrggbb", "nonzero", ">=N"; () for 0 and 255 (or 1)
    objects: bool | None = None                           # several masks of an image are its objects, united; false: raters
    axis: Literal[0, 1, 2] | None = None                  # of volumes, across their slices; that of the largest spacing if None
    normalise: Literal["range", "standard", "case"] = "range"  # to [−1, 1]; mean 0, deviation 1 a channel, of all or of each case
    fit: Literal["resize", "crop"] = "resize"             # whole image squashed to size × size, or random crops of it
    scale: Annotated[float, Field(gt=0, le=4)] = 1.0      # with fit="crop": images are resized by this factor first
    test_crops: bool = False                              # with fit="crop": tested on one crop an image, drawn by seed
    split_seed: Annotated[int, Field(ge=0)] = 0           # of what is drawn for testing, where a layout has no split
    train_images: PositiveInt | None = None               # at most so many (synthetic: exactly so many; 200 if None)
    test_images: PositiveInt | None = None                # at most so many (synthetic: exactly so many; 40 if None)
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.0   # share of the training images, in whole patients, tested on instead
    augment: Augment = Augment()

    @model_validator(mode="after")
    def _consistent(self):
        if self.test_crops and self.fit != "crop":
            raise ValueError('test_crops is true, but images are cut into crops with fit="crop" only')
        return self
