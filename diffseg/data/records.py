"""What a layout finds on disk, and how one image with its masks is read. Every fault is a DataError of one sentence."""

import itertools
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from diffseg.data import masks, opening, pictures, quantisation, volumes
from diffseg.data.masks import Labels, Rule
from diffseg.data.opening import Shape
from diffseg.data.quantisation import Quantisation

COUNTED = 2048  # px a side at most, of masks whose objects are counted: larger ones are thinned out


@dataclass(frozen=True)
class Sample:
    """One image at full size, decoded."""

    image: np.ndarray  # uint8 or uint16 [H, W, C]; smaller where a JPEG was read so
    masks: np.ndarray  # bool [R, H, W], one a rater
    objects: int  # that are annotated: polygons, or connected parts of what most raters marked


@dataclass(frozen=True)
class Record:
    """One image of a data set and where its masks come from."""

    name: str
    split: str | None  # train or test; None if it is to be drawn
    image: Path
    annotations: tuple[Path, ...]  # one a rater
    group: str | None = None  # the patient or volume, where it is known: all of a group are in one split
    index: int | None = None  # of the slice, in a volume
    axis: int = 2  # of the volume, across its slices
    quantisation: Quantisation | None = None  # from the volume's numbers to pixels; by its own numbers if None
    foreground: Rule = ()  # which pixels of the masks are it
    united: bool = False  # the annotations are objects of one mask, not masks of raters

    margin: ClassVar[int] = 0  # px that the image lacks of its volume's slice, on every side
    stores_labels: ClassVar[bool] = True  # whether masks are files of pixels, of which the foreground has to be known

    @property
    def shared_name(self) -> str:
        """The image's name; of a slice the volume's, which all its slices share."""
        return self.name if self.index is None else self.name.rsplit("/", 1)[0]

    @property
    def volume(self) -> Path | None:
        """The file with the geometry of the volume that it is a slice of."""
        return None if self.index is None else self.image

    @property
    def quantised_volume(self) -> Path | None:
        """The volume whose numbers are mapped to pixels as those of all others of its data set are."""
        return self.volume

    @property
    def raters(self) -> int:
        return 1 if self.united else len(self.annotations)

    @property
    def files(self) -> tuple[Path, ...]:
        return self.image, *self.annotations

    def read_shape(self) -> Shape:
        """Of the image, without decoding. Raises DataError."""
        if self.index is None:
            return pictures.read_shape(self.image)
        head, deep = volumes.read_header(self.image), quantisation.pixel_bits(self.image, self.quantisation) > 8
        return Shape(*np.delete(head.grid, self.axis).tolist(), head.channels, deep)

    def check_headers(self) -> Shape:
        """The image's shape, without decoding. Raises DataError, also if a mask is seen to have another size."""
        shape = self.read_shape()
        for path in self.annotations if self.index is None else ():
            pictures.check_size(path, pictures.read_shape(path).size, shape.size)
        return shape

    def read(self, channels: int = 3, at_least: int | None = None) -> Sample:
        """Decode image and masks (see pictures.read_image). Raises DataError."""
        image, (masks, marked) = self.read_image(channels, at_least), self._read_annotations()
        return Sample(image, masks, marked if self.united else self.count_objects(masks))

    def read_image(self, channels: int = 3, at_least: int | None = None) -> np.ndarray:
        """uint8 or uint16 [H, W, C]."""
        if self.index is None:
            return pictures.read_image(self.image, channels, at_least)
        pixels = self._slice(quantisation.read_pixels(self.image, self.quantisation))
        return pixels if pixels.ndim == 3 else pixels[..., None]

    def read_statistics(self, image: np.ndarray) -> np.ndarray:
        """float64 [2, C]: mean and standard deviation of the image's pixels, or of all those of its volume."""
        if self.index is None:
            return quantisation.mean_and_deviation(image)
        return quantisation.pixel_statistics(self.image, self.quantisation)

    def read_masks(self) -> np.ndarray:
        """bool [R, H, W] at full size; where there are no annotations, one that is empty. Raises DataError."""
        return self._read_annotations()[0]

    def _read_annotations(self) -> tuple[np.ndarray, int]:
        """bool [R, H, W] of the raters, and the number of annotations that are not empty."""
        size = self.read_shape().size
        found = (self.read_mask(path, size) for path in self.annotations)
        if not self.united and self.annotations:
            masks = np.stack(list(found))
            return masks, int(masks.any((1, 2)).sum())
        union, marked = np.zeros((1, *size), bool), 0
        for mask in found:
            union |= mask
            marked += bool(mask.any())
        return union, marked

    def read_mask(self, path: Path, size: tuple[int, int]) -> np.ndarray:
        """bool [H, W] of one rater."""
        return masks.foreground(path, self.read_labels(path, size), self.foreground)

    def read_labels(self, path: Path, size: tuple[int, int] | None = None) -> Labels:
        """A mask's pixels as they are stored. size: (height, width) that it must have. Raises DataError."""
        if self.index is None:
            return pictures.read_labels(path, size)
        return Labels(self._slice(volumes.read_labels(path, self.image)))

    def to_json(self) -> dict:
        paths = {"image": str(self.image), "annotations": list(map(str, self.annotations))}
        return {"kind": type(self).__name__} | asdict(self) | paths

    @staticmethod
    def from_json(saved: dict) -> "Record":
        """The record that `to_json` was called of."""
        kinds = {kind.__name__: kind for kind in (Record, *Record.__subclasses__())}
        paths = {"image": Path(saved["image"]), "annotations": tuple(map(Path, saved["annotations"]))}
        rule, mapped = saved["foreground"], saved["quantisation"]
        paths |= {"foreground": tuple(rule) if isinstance(rule, list) else rule}
        paths |= {"quantisation": mapped and Quantisation(**mapped)}
        return kinds[saved["kind"]](**{key: value for key, value in (saved | paths).items() if key != "kind"})

    def _slice(self, volume: np.ndarray) -> np.ndarray:
        """[H, W, …] of a volume [X, Y, Z, …]."""
        return np.moveaxis(volume, self.axis, 2)[:, :, self.index]

    def count_objects(self, masks: np.ndarray) -> int:
        from scipy.ndimage import label

        thinned = masks[:, :: 1 + masks.shape[1] // COUNTED, :: 1 + masks.shape[2] // COUNTED]
        return label(2 * thinned.sum(0, np.int16) > len(masks), structure=np.ones((3, 3)))[1]


def in_parallel(
    function: Callable, records: Sequence[Record], on_progress: Callable[[int, int], None] | None = None
) -> list:
    """The function of every record, in order, on all processors: decoding releases the interpreter's lock.

    Slices of one volume stay on one processor, so that it is decoded once. on_progress is told how many of how many
    are done. Pillow's warnings (odd TIFF tags, say) are silenced out here, because the filters belong to the process:
    threads that each save and restore them leave them changed.
    """
    groups = [list(group) for _, group in itertools.groupby(records, key=lambda record: record.image)]
    results = []
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
            opening.forget()
    return results
