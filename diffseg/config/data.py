"""Settings of a data set: layout, size, channels, foreground, splits and augmentation."""

import json
import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from diffseg.section import Fraction, Positive, PositiveInt, Section

CLASS_NAME = r"[^\W_][\w .+-]{0,39}"
BACKGROUND = "background"  # name of the class whose values are the background
IGNORED = "ignored pixels (data.ignore)"  # no name of a class, in sentences on values
MAX_LABELS = 254  # distinct labels of pixels: they are stored in 8 bits, with 0 for background and 255 for ignored ones


def _is_value(value: Any) -> bool:
    """Return whether a value is a number or a colour of a mask."""
    if isinstance(value, str):
        return re.fullmatch("#[0-9a-fA-F]{6}", value) is not None
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _check_foreground(value: Any) -> Any:
    """Return numbers and colours as a tuple, "nonzero" and ">=N" as they are. Raises ValueError for anything else."""
    if isinstance(value, str) and re.fullmatch(r"nonzero|>=[1-9][0-9]{0,8}", value):
        return value
    if not isinstance(value, list | tuple) or not all(_is_value(one) for one in value):
        raise ValueError(
            'allowed are a list of the values of the foreground, such as [2, 3] or ["#ff0000"], '
            '"nonzero", and ">=N", such as ">=128"'
        )
    return tuple(one.lower() if isinstance(one, str) else one for one in value)


Foreground = Annotated[tuple[int | str, ...] | str, BeforeValidator(_check_foreground)]


def _check_values(value: Any) -> tuple[int | str, ...]:
    """Return one or several values of masks as a tuple. Raises ValueError for other than numbers and colours."""
    values = value if isinstance(value, list | tuple) else [value]
    if not all(_is_value(one) for one in values):
        raise ValueError(f'allowed are values of masks, such as 2, [2, 3] or "#ff0000", not {json.dumps(value)[:60]}')
    return tuple(dict.fromkeys(one.lower() if isinstance(one, str) else one for one in values))


def _check_classes(value: Any) -> tuple[tuple[str, tuple[int | str, ...]], ...]:
    """Return the classes of a table, or of a list of pairs, as pairs of a name and values. Raises ValueError."""
    pairs = list(value.items()) if isinstance(value, dict) else value
    if not isinstance(pairs, list | tuple) or not all(
        isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs
    ):
        raise ValueError('allowed is a table of names and values, such as {"anterior": 1, "posterior": [2, 3]}')
    for name, _ in pairs:
        if not isinstance(name, str) or not re.fullmatch(CLASS_NAME, name) or name == "all":
            raise ValueError(
                f"{json.dumps(name)[:60]} is no name of a class: it has up to 40 letters, digits, spaces and ._+-, and is not 'all'"
            )
    names = [name.strip() for name, _ in pairs]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"class {repeated[0]} is given twice")
    for name, values in pairs:
        if values in ([], ()):
            raise ValueError(f"class {name} has no value: give it one or more")
    return tuple((name, _check_values(values)) for name, values in pairs)


Values = Annotated[tuple[int | str, ...], BeforeValidator(_check_values)]
ClassTable = Annotated[
    tuple[tuple[str, tuple[int | str, ...]], ...], BeforeValidator(_check_classes), WithJsonSchema({"type": "object"})
]


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
    layout: Literal["isic16", "monuseg", "lidc", "brats", "nnunet", "folder", "synthetic"] = Field("synthetic",
        description="Layout of the files, or synthetic images.")
    kind: Literal["large", "many", "clusters", "classes"] = Field("large",
        description="Objects in synthetic images; classes: of two kinds, whose values are 1 and 2.")
    size: int = Field(64, ge=8, description="Side of the square that the network sees, px.")
    channels: PositiveInt = Field(3, description="Channels that the network sees; gray images are repeated to fill them.")
    foreground: Foreground = Field((),
        description='Pixels of a mask that are foreground: a list of values or "#rrggbb", "nonzero", or ">=N". '
                    "Empty: masks hold 0 and 255, or 0 and 1.")
    classes: ClassTable = Field((),
        description='Classes of the masks and their values, numbers or "#rrggbb": {"anterior": 1, "posterior": [2, 3]}. '
                    '"background" names values besides 0 and black. Empty: one class, the foreground.')
    regions: bool = Field(False,
        description="Whether classes are regions that may overlap by sharing values, such as a whole tumour and its core.")
    ignore: Values = Field((),
        description="Values of mask pixels that count in no loss and no metric, such as 255 for unlabelled ones.")
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
    held_out_least: int = Field(0, ge=0,
        description="Images, or patients if they are known, to hold out at least: it raises data.held_out, up to a half.")
    calibration: float = Field(0.0, ge=0, lt=1,
        description="Share of the training images, in whole patients, that is left to choose the threshold of inference.risk by.")
    fold: int = Field(0, ge=0,
        description="Which part is held out, of parts of equal size without a common image: 0 to 4 with data.held_out=0.2.")
    augment: Augment = Field(Augment(), description="Random changes of training images and their masks.")

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, without the background; none for binary masks."""
        return tuple(name for name, _ in self.classes if name != BACKGROUND)

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        if self.test_crops and self.fit != "crop":
            raise ValueError('test_crops is true, but images are cut into crops with fit="crop" only')
        return self

    @model_validator(mode="after")
    def _check_held_out(self) -> Self:
        for name in ("held_out_least", "fold"):
            if getattr(self, name) and not self.held_out:
                raise ValueError(f"{name} is {getattr(self, name)}, but held_out is 0: set it, such as data.held_out=0.2")
        if self.held_out and self.fold >= (parts := int(1 / self.held_out + 1e-9)):
            raise ValueError(
                f"fold is {self.fold}, but with held_out={self.held_out:g} there are {parts} parts: allowed are 0 to {parts - 1}"
            )
        return self

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if self.layout == "synthetic" and self.kind == "classes" and not self.classes:
            raise ValueError(
                'kind=classes draws objects of the values 1 and 2: name them, such as data.classes={"one": 1, "two": 2}'
            )
        return self

    @model_validator(mode="after")
    def _check_labels(self) -> Self:
        if self.classes and self.foreground:
            raise ValueError("classes and foreground both say what masks hold: leave data.foreground out")
        if (self.regions or self.classes) and not self.class_names:
            raise ValueError("regions or a background are given, but no class: name the classes in data.classes")
        if self.regions and self.objects:
            raise ValueError(
                "objects=true unites files of objects into exclusive classes, but regions=true lets classes overlap: "
                "leave one of them out"
            )
        given: dict[int | str, str] = {}
        for name, values in (*self.classes, (IGNORED, self.ignore)):
            for value in values:
                other = given.setdefault(value, name)
                alone = {name, other} & {BACKGROUND, IGNORED}
                if other != name and (alone or not self.regions):
                    remedy = "" if alone else ", or set data.regions=true if classes may overlap"
                    raise ValueError(f"the value {value} is both of {other} and of {name}: give it to one of them{remedy}")
        if isinstance(self.foreground, tuple) and (shared := set(self.foreground) & set(self.ignore)):
            raise ValueError(f"the value {min(map(str, shared))} is both foreground and ignored: give it to one of them")
        if len(given) > MAX_LABELS:
            raise ValueError(f"data.classes lists {len(given)} values: at most {MAX_LABELS} are possible")
        return self
