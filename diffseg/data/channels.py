"""Images whose channels lie in several files: pictures of one size, or volumes of one grid."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from diffseg.data import nifti, pictures, quantisation, volumes
from diffseg.data.opening import Shape, cached
from diffseg.data.quantisation import Quantisation
from diffseg.data.records import Record
from diffseg.errors import DataError

TO_16_BITS = 257  # factor by which 255 becomes 65535


@dataclass(frozen=True)
class MultiFile(Record):
    """An image of several files. `image` has the first channels, and the geometry of a volume."""

    further: tuple[Path, ...] = ()  # the files of the other channels, in order

    @property
    def parts(self) -> tuple[Path, ...]:
        """The files of the channels."""
        return self.image, *self.further

    @property
    def quantised_volumes(self) -> tuple[Path, ...]:
        """The volumes whose intensities are mapped to pixels."""
        return () if self.index is None else self.parts

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that are read."""
        return *self.parts, *self.annotations

    def read_shape(self) -> Shape:
        """Read the shape of the image from the headers of its files. Raises DataError."""
        shapes = [super(MultiFile, replace(self, image=path)).read_shape() for path in self.parts]
        if self.index is None:
            _check_sizes(self.parts, [shape.size for shape in shapes])
        channels, deep = sum(shape.channels for shape in shapes), any(shape.deep for shape in shapes)
        return Shape(*shapes[0].size, channels, deep, shapes[0].spacing)

    def read_image(self, channels: int = 3, at_least: int | None = None) -> np.ndarray:
        """Decode the image: uint8 or uint16 [H, W, C]. Raises DataError."""
        if self.index is not None:
            return self._cut_slice(_read_volumes(self.parts, self.quantisation))
        found = [pictures.read_image(path, channels, at_least) for path in self.parts]
        _check_sizes(self.parts, [(image.shape[0], image.shape[1]) for image in found])
        return _join(found)

    def read_statistics(self, image: np.ndarray) -> np.ndarray:
        """Return float64 [2, C]: mean and standard deviation of the image's pixels, or of the pixels of its volumes."""
        return (
            quantisation.mean_and_deviation(image) if self.index is None else _statistics(self.parts, self.quantisation)
        )


def _check_sizes(paths: Sequence[Path], sizes: Sequence[tuple[int, int]]) -> None:
    """Raise DataError if a picture has another (height, width) than the first one."""
    for path, size in zip(paths, sizes, strict=True):
        if size != sizes[0]:
            raise DataError(
                f"{path} is {size[1]} × {size[0]} px, but {paths[0].name} is {sizes[0][1]} × {sizes[0][0]}: all channels of "
                "an image must have one size"
            )


@cached
def _read_volumes(paths: tuple[Path, ...], common: Quantisation | None) -> np.ndarray:
    """Decode volumes to pixels, uint8 or uint16 [X, Y, Z, C], in the orientation of the first. Raises DataError.

    common: the map from intensities to pixels; None to fit one to each volume.
    """
    first, found = nifti.read_header(paths[0]), []
    for path in paths:
        turn = volumes.find_orientation(nifti.read_header(path), first)
        pixels = volumes.apply_turn(quantisation.decode_pixels(path, common), turn)
        found.append(pixels if pixels.ndim == 4 else pixels[..., None])
    return _join(found)


@cached
def _statistics(paths: tuple[Path, ...], common: Quantisation | None) -> np.ndarray:
    """Return float64 [2, C]: mean and standard deviation of the pixels of volumes. Raises DataError."""
    return quantisation.mean_and_deviation(_read_volumes(paths, common))


def _join(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Join the channels [..., C] of several files. If any has 16 bits, those of 8 are stretched."""
    deep = any(part.dtype == np.uint16 for part in parts)
    same = [part * np.uint16(TO_16_BITS) if deep and part.dtype == np.uint8 else part for part in parts]
    return np.concatenate(same, axis=-1)
