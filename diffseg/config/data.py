"""Settings of a data set: layout, size, channels, foreground, splits and augmentation."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from diffseg.section import Fraction, Positive, PositiveInt, Section


def _check_foreground(value: Any) -> Any:
    """Return numbers and colours as a tuple, "nonzero" and ">=N" as they are. Raises ValueError for anything else."""
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


Foreground = Annotated[tuple[int | str, ...] | str, BeforeValidator(_check_foreground)]


# fmt: off
class Augment(Section):
    """Random changes of training images and their masks, drawn anew for each sample of a batch."""

    flips: Literal["none", "horizontal", "both", "symmetries"] = Field("none",
        description="Mirroring: left–right (horizontal), also up–down (both), also quarter turns (symmetries).")
    degrees: float = Field(0.0, ge=0, le=180, description="Largest rotation to either side, in degrees.")
    zoom: tuple[Positive, Positive] = Field((1.0, 1.0), description="Smallest and largest magnification.")
    brightness: Fraction = Field(0.0, description="Largest change of the brightness factor 1 ± x, as in torchvision's ColorJitter.")
    contrast: Fraction = Field(0.0, description="Largest change of the contrast factor 1 ± x.")
    saturation: Fraction = Field(0.0, description="Largest change of the saturation factor 1 ± x.")
    hue: float = Field(0.0, ge=0, le=0.5, description="Largest turn of the hue to either side, as a share of the colour circle.")

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.zoom[0] > self.zoom[1]:
            raise ValueError(f"zoom is {list(self.zoom)}, but its first value must not be above the second")
        return self


class Data(Section):
    """Settings of a data set: how its files are read, what the network sees of them, and how they are split."""

    name: str = Field("synthetic-large", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Name of the data set; `--data NAME=ROOT` says where it lies.")
    layout: Literal["isic16", "monuseg", "lidc", "brats", "folder", "synthetic"] = Field("synthetic",
        description="Layout of the files, or synthetic images.")
    kind: Literal["large", "many", "clusters"] = Field("large", description="Objects in synthetic images.")
    size: int = Field(64, ge=8, description="Side of the square that the network sees, px.")
    channels: PositiveInt = Field(3, description="Channels that the network sees; gray images are repeated to fill them.")
    foreground: Foreground = Field((),
        description='Pixels of a mask that are foreground: a list of values or "#rrggbb", "nonzero", or ">=N". '
                    "Empty: masks hold 0 and 255, or 0 and 1.")
    objects: bool | None = Field(None,
        description="What several masks of an image are. true: objects, to be united; false: raters. None: decided from all masks.")
    axis: Literal[0, 1, 2] | None = Field(None,
        description="Axis across the slices of a volume. None: the axis of the largest spacing.")
    normalise: Literal["range", "standard", "case"] = Field("range",
        description="Scaling of pixels. range: to [−1, 1]; standard, case: to mean 0 and deviation 1 per channel, "
                    "over the training images or over each image or volume.")
    fit: Literal["resize", "crop"] = Field("resize",
        description="How images become size × size: resized as a whole, or random crops (and tiles in prediction).")
    scale: float = Field(1.0, gt=0, le=4, description="Factor by which images are resized before they are cropped (fit=crop).")
    test_crops: bool = Field(False, description="Test on one random crop per image instead of the whole image (fit=crop).")
    split_seed: int = Field(0, ge=0, description="Seed of the drawn test images, for data sets without a split of their own.")
    train_images: PositiveInt | None = Field(None,
        description="Largest number of training images; synthetic: the exact number. None: all; synthetic: 200.")
    test_images: PositiveInt | None = Field(None,
        description="Largest number of test images; synthetic: the exact number. None: all; synthetic: 40.")
    held_out: float = Field(0.0, ge=0, lt=1,
        description="Share of the training images, in whole patients, that is tested on instead of the test images.")
    augment: Augment = Field(Augment(), description="Random changes of training images and their masks.")

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        if self.test_crops and self.fit != "crop":
            raise ValueError('test_crops is true, but images are cut into crops with fit="crop" only')
        return self
