"""The decoded arrays of a data set: all images of a split in one array, of 8 or 16 bits."""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields

import numpy as np

from diffseg.data.quantisation import Quantisation
from diffseg.data.records import Record

Allocate = Callable[[str, tuple[int, ...], np.dtype], np.ndarray]  # name, shape, type → array to be filled


@dataclass(frozen=True)
class DecodedSplit:
    """One split. Images and masks lie one after the other, each [C, H, W] and [R, H, W] in row-major order."""

    names: tuple[str, ...]
    groups: tuple[str | None, ...]  # the patient or volume of each image; None if it is unknown
    spacings: tuple[tuple[float, float] | None, ...]  # mm between rows and between columns in the file; None if unknown
    images: np.ndarray  # uint8 or uint16 [Σ C·H·W]
    masks: np.ndarray  # uint8 [Σ R·H·W], one a rater: the numbers of labels
    sizes: np.ndarray  # int64 [N, 2]: height, width
    originals: np.ndarray  # int64 [N, 2]: height, width in the file
    statistics: np.ndarray  # float64 [N, 2, C]: mean and deviation of the case, in pixels; 0 unless data.normalise=case
    objects: np.ndarray  # int64 [N]: the number of annotated objects
    instances: np.ndarray | None = None  # uint16 [Σ H·W]: the object of each pixel, 0 for none; None if unknown


OBJECTS = "instances"  # the array that data sets of unknown objects lack
ARRAYS = tuple(field.name for field in fields(DecodedSplit) if field.type is np.ndarray)
DERIVED = ("originals", "statistics")  # arrays that follow from the images and are no part of the digest


@dataclass(frozen=True)
class DecodedData:
    """Both splits, and what they have in common."""

    parts: dict[str, DecodedSplit]  # by split
    channels: int  # C
    raters: int  # R
    histogram: np.ndarray  # int64 [C, 256 or 65536] of the training images
    quantisation: Quantisation | None = None  # of the volumes, if there are any and they share one
    records: dict[str, tuple[Record, ...]] | None = None  # by split: what was decoded; None for synthetic images
    digests: dict[str, str] = field(default_factory=dict)  # of the content of the files, by path

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays of both splits, by the names of their files in the cache."""
        kinds = (*ARRAYS, OBJECTS)
        parts = {f"{split}-{kind}": getattr(part, kind) for split, part in self.parts.items() for kind in kinds}
        return {name: array for name, array in parts.items() if array is not None} | {"histogram": self.histogram}

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits of names, sizes, images, masks and objects."""
        state = hashlib.sha256(repr({split: part.names for split, part in self.parts.items()}).encode())
        with ThreadPoolExecutor() as pool:  # hashing releases the interpreter's lock
            arrays = {name: array for name, array in self.arrays.items() if not name.endswith(DERIVED)}
            for name, found in sorted(zip(arrays, pool.map(_hash, arrays.values()), strict=True)):
                state.update(f"{name} {found}".encode())
        return state.hexdigest()[:12]


def _hash(array: np.ndarray) -> str:
    """Return the SHA-256 of an array's bytes, in hexadecimal digits."""
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
