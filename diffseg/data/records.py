"""One image of a data set with its masks: where its files are, and how they are read. Every fault is a DataError."""

import itertools
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from diffseg.data import nifti, opening, pictures, quantisation, volumes
from diffseg.data.masks import ForegroundRule, MaskPixels
from diffseg.data.numbering import is_labelled, number_objects, number_pixels
from diffseg.data.opening import Shape
from diffseg.data.quantisation import Quantisation
from diffseg.errors import DataError
from diffseg.labels.classes import BINARY, Classes

COUNTED = 2048  # px a side at most, of masks whose objects are counted: larger ones are thinned out
FILES = ("annotations", "further")  # fields that hold several files
Result = TypeVar("Result")


@dataclass(frozen=True)
class Sample:
    """One decoded image at full size with its masks."""

    image: np.ndarray  # uint8 or uint16 [H, W, C]; a JPEG may be smaller than its masks
    masks: np.ndarray  # uint8 [R, H, W], one a rater: the numbers of labels (`Classes`)
    objects: int  # annotated objects: polygons, or connected parts of what most raters marked
    instances: np.ndarray | None = None  # uint16 [1, H, W]: the object of each pixel, 0 for none; None if unknown


@dataclass(frozen=True)
class Record:
    """The files of one image and its masks. Layouts whose files are read in another way derive from it."""

    name: str
    split: str | None  # train or test; None if it is still to be drawn
    image: Path
    annotations: tuple[Path, ...]  # one a rater
    group: str | None = None  # the patient or volume, if it is known: all images of a group are in one split
    index: int | None = None  # of the slice in a volume; None for a picture
    axis: int = 2  # of the volume, across its slices
    quantisation: Quantisation | None = None  # from the volume's intensities to pixels; None to fit it to this volume
    foreground: ForegroundRule = ()  # which pixels of the masks are foreground, if no class is named
    classes: Classes = BINARY  # what the pixels of the masks may mean
    united: bool = False  # the annotations are objects of one mask, not masks of several raters
    numbered: bool = False  # the one annotation has another value for each object

    margin: ClassVar[int] = 0  # px that the image lacks of its volume's slice, on every side
    stores_labels: ClassVar[bool] = True  # whether masks are files of pixels, so that their foreground must be decided
    holds_values: ClassVar[bool] = False  # whether other masks have the values that data.classes and data.ignore list

    @property
    def shared_name(self) -> str:
        """The image's name; for a slice the name of its volume, which all its slices share."""
        return self.name if self.index is None else self.name.rsplit("/", 1)[0]

    @property
    def volume(self) -> Path | None:
        """The file with the geometry of the volume that holds this slice; None for a picture."""
        return None if self.index is None else self.image

    @property
    def quantised_volume(self) -> Path | None:
        """The volume whose intensities are mapped to pixels by the quantisation of the data set; None if there is none."""
        return self.volume

    @property
    def quantised_volumes(self) -> tuple[Path, ...]:
        """All volumes whose intensities are mapped to pixels: more than one where the channels lie in several files."""
        return () if self.quantised_volume is None else (self.quantised_volume,)

    @property
    def raters(self) -> int:
        """The number of masks."""
        return 1 if self.united else len(self.annotations)

    @property
    def knows_objects(self) -> bool:
        """Whether the annotations tell which object a pixel belongs to."""
        return (self.united or self.numbered) and bool(self.annotations)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that are read."""
        return self.image, *self.annotations

    def read_shape(self) -> Shape:
        """Read the shape of the image from its header. Raises DataError."""
        if self.index is None:
            return pictures.read_shape(self.image)
        head, deep = nifti.read_header(self.image), quantisation.pixel_bits(self.image, self.quantisation) > 8
        height, width = (side for axis, side in enumerate(head.grid) if axis != self.axis)
        return Shape(height, width, head.channels, deep, head.slice_spacing(self.axis))

    def check_headers(self) -> Shape:
        """Read the image's shape. Raises DataError, also if the header of a mask says another size."""
        shape = self.read_shape()
        for path in self.annotations if self.index is None else ():
            pictures.check_size(path, pictures.read_shape(path).size, shape.size)
        return shape

    def read(self, channels: int = 3, at_least: int | None = None) -> Sample:
        """Decode image and masks, with the arguments of `pictures.read_image`. Raises DataError."""
        image, (masks, instances, marked) = self.read_image(channels, at_least), self._read_annotations()
        known = self.united or self.numbered
        return Sample(image, masks, marked if known else self.count_objects(masks), instances)

    def read_image(self, channels: int = 3, at_least: int | None = None) -> np.ndarray:
        """Decode the image: uint8 or uint16 [H, W, C]. Raises DataError."""
        if self.index is None:
            return pictures.read_image(self.image, channels, at_least)
        pixels = self._cut_slice(quantisation.read_pixels(self.image, self.quantisation))
        return pixels if pixels.ndim == 3 else pixels[..., None]

    def read_statistics(self, image: np.ndarray) -> np.ndarray:
        """Return float64 [2, C]: mean and standard deviation of the image's pixels, or of the pixels of its volume."""
        if self.index is None:
            return quantisation.mean_and_deviation(image)
        return quantisation.pixel_statistics(self.image, self.quantisation)

    def read_masks(self) -> np.ndarray:
        """Decode the masks at full size: uint8 [R, H, W]; an empty one if there are no annotations. Raises DataError."""
        return self._read_annotations()[0]

    def read_instances(self) -> np.ndarray | None:
        """Decode the objects at full size: uint16 [1, H, W], 0 for none; None if they are unknown. Raises DataError."""
        return self._read_annotations()[1]

    def _read_annotations(self) -> tuple[np.ndarray, np.ndarray | None, int]:
        """Decode the masks uint8 [R, H, W] and the objects uint16 [1, H, W]; count the objects that are not empty.

        Where objects overlap, the later one has the pixel.
        """
        size = self.read_shape().size
        if self.numbered and self.annotations:
            labels = self.read_labels(self.annotations[0], size)
            mask = number_pixels(self.annotations[0], labels, self.classes, self.foreground)
            instances = number_objects(self.annotations[0], labels, is_labelled(mask))
            return mask[None], instances[None], int(instances.max())
        found = (np.asarray(self.read_mask(path, size)).astype(np.uint8, copy=False) for path in self.annotations)
        if not self.united and self.annotations:
            return np.stack(list(found)), None, 0
        union, instances, marked = np.zeros(size, np.uint8), np.zeros((1, *size), np.uint16), 0
        for number, (path, mask) in enumerate(zip(self.annotations, found, strict=True), 1):
            labelled = is_labelled(union)
            if self.classes.count > 1 and (labelled & is_labelled(mask) & (union != mask)).any():
                raise DataError(
                    f"{path} marks pixels that another object of {self.image} gives to another class: with data.objects=true "
                    "objects of different classes must not overlap, so correct one of them"
                )
            np.copyto(union, mask, where=(mask != 0) & ~labelled)
            instances[0][is_labelled(mask)] = number
            marked += bool(is_labelled(mask).any())
        return union[None], instances if self.knows_objects else None, marked

    def read_mask(self, path: Path, size: tuple[int, int]) -> np.ndarray:
        """Decode the mask of one rater: uint8 [H, W]. size: (height, width) that it must have. Raises DataError."""
        return number_pixels(path, self.read_labels(path, size), self.classes, self.foreground)

    def read_labels(self, path: Path, size: tuple[int, int] | None = None) -> MaskPixels:
        """Decode a mask's pixels as they are stored. size: (height, width) that it must have. Raises DataError."""
        if self.index is None:
            return pictures.read_labels(path, size)
        return MaskPixels(self._cut_slice(volumes.read_labels(path, self.image)))

    def count_objects(self, masks: np.ndarray) -> int:
        """Count the connected parts of what most raters marked in masks uint8 [R, H, W]."""
        return count_parts(masks, self.classes)

    def to_json(self) -> dict[str, Any]:
        """Return the record as values that JSON can hold."""
        saved = asdict(self)
        paths = {key: list(map(str, saved[key])) for key in FILES if key in saved}
        return {"kind": type(self).__name__} | saved | paths | {"image": str(self.image)}

    @staticmethod
    def from_json(saved: dict[str, Any]) -> "Record":
        """Restore a record from `saved`, which its `to_json` returned."""
        kinds: list[type[Record]] = [Record, *Record.__subclasses__()]
        rule, quantised = saved["foreground"], saved["quantisation"]
        fields = saved | {key: tuple(map(Path, saved[key])) for key in FILES if key in saved}
        fields |= {
            "image": Path(saved["image"]),
            "foreground": tuple(rule) if isinstance(rule, list) else rule,
            "quantisation": quantised and Quantisation(**quantised),
            "classes": Classes(**{key: _to_tuples(value) for key, value in saved["classes"].items()}),
        }
        name = fields.pop("kind")
        return {kind.__name__: kind for kind in kinds}[name](**fields)

    def _cut_slice(self, volume: np.ndarray) -> np.ndarray:
        """Return this slice [H, W, …] of a volume [X, Y, Z, …]."""
        pixels: np.ndarray = np.moveaxis(volume, self.axis, 2)[:, :, self.index]
        return pixels


def count_parts(masks: np.ndarray, classes: Classes) -> int:
    """Count the connected parts of what most raters marked in masks uint8 [R, H, W].

    Parts of several exclusive classes are counted by class, since they may touch; those of regions together.
    """
    from scipy.ndimage import label

    thinned = masks[:, :: 1 + masks.shape[1] // COUNTED, :: 1 + masks.shape[2] // COUNTED]
    several = classes.exclusive and classes.count > 1
    marks = (thinned == numbers[0] for numbers in classes.numbers) if several else [is_labelled(thinned)]
    count = 0
    for mark in marks:
        count += label(2 * mark.sum(0, np.int16) > len(masks), structure=np.ones((3, 3)))[1]
    return count


def _to_tuples(value: Any) -> Any:
    """Return lists, also those in lists, as tuples."""
    return tuple(map(_to_tuples, value)) if isinstance(value, list | tuple) else value


def in_parallel(
    function: Callable[[Record], Result],
    records: Sequence[Record],
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Result]:
    """Apply the function to every record, in order, on all processors: decoding releases the interpreter's lock.

    Slices of one volume stay on one processor, so that it is decoded once. on_progress is given the number of records that
    are done and of all. Pillow's warnings, such as those of odd TIFF tags, are silenced here and not in each thread: the
    filters belong to the process, and threads that each save and restore them leave them changed.
    """
    groups = [list(group) for _, group in itertools.groupby(records, key=lambda record: record.image)]
    results: list[Result] = []
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.filterwarnings("ignore", module=r"PIL\.")
        try:
            for found in pool.map(lambda group: [function(record) for record in group], groups):
                results += found
                if on_progress:
                    on_progress(len(results), len(records))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            opening.clear_caches()
    return results
