"""Image and mask files: their shape without decoding, their pixels, and one sentence for whatever is wrong with them.

Pictures (PNG, JPEG, TIFF, BMP of 8 bits a channel, or gray of 16) are read by Pillow, NIfTI volumes by nibabel; of a volume
[X, Y, Z] or [X, Y, Z, C], slice k is the picture [X, Y] or [X, Y, C] at Z = k.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from diffseg.data.masks import Labels
from diffseg.errors import DataError

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
VOLUMES = (".nii", ".nii.gz")
GRAY = ("1", "L", "LA", "I", "F")  # Pillow's modes of one channel begin so; those of more than 8 bits with I or F
DEEP = ("I", "F")
SIGNED = 32768  # added to signed 16-bit pixels, such as Hounsfield units
OUTLIERS = (0.1, 99.9)  # percentiles of a volume that other numbers are scaled by


_remembering = []


def remembered(function: Callable) -> Callable:
    """The function of a file with its last results, since the slices of a volume are read one after the other."""
    _remembering.append(lru_cache(maxsize=2 * (os.cpu_count() or 1))(function))
    return _remembering[-1]


def forget() -> None:
    """Let go of remembered volumes, which are large and may change."""
    for function in _remembering:
        function.cache_clear()


@dataclass(frozen=True)
class Shape:
    height: int
    width: int
    channels: int
    deep: bool  # more than 8 bits a channel

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width


def stem(name: str) -> str:
    """A file's name without its extension."""
    return name.removesuffix(".gz").rsplit(".", 1)[0]


def is_volume(path: Path) -> bool:
    return path.name.lower().endswith(VOLUMES)


def files_in(folder: Path, extensions: tuple[str, ...] = PICTURES) -> dict[str, list[Path]]:
    """Files of a folder by stem; it should be one a stem."""
    found: dict[str, list[Path]] = {}
    for name in sorted(os.listdir(folder)):
        if name.lower().endswith(extensions) and not name.startswith("."):
            found.setdefault(stem(name), []).append(folder / name)
    return found


def shape(path: Path) -> Shape:
    """Of a picture, or of a volume's slices. Raises DataError if the file cannot be read."""
    if is_volume(path):
        header = volume_header(path)
        return Shape(
            *header.shape[:2], header.shape[3] if len(header.shape) == 4 else 1, header.get_data_dtype() != "u1"
        )
    with _opened(path) as image:
        return Shape(image.height, image.width, 1 if image.mode.startswith(GRAY) else 3, image.mode.startswith(DEEP))


def read_image(path: Path, channels: int, index: int | None = None, at_least: int | None = None) -> np.ndarray:
    """uint8 or uint16 [H, W, C] of a picture or of slice `index` of a volume; C is 1 for gray ones. Raises DataError.

    channels: as many as are wanted; colour is turned to gray where it is 1. at_least: JPEGs may be read smaller, by an
    integer factor, as long as no side falls below it, which bounds time and memory for large photographs.
    """
    if index is not None:
        pixels = volume(path)[:, :, index]
        return pixels if pixels.ndim == 3 else pixels[..., None]
    with _opened(path) as image:
        if image.mode.startswith(DEEP):
            return _sixteen_bits(path, image)[..., None]
        gray = image.mode.startswith(GRAY) or channels == 1
        if at_least:
            image.draft("L" if gray else "RGB", (at_least, at_least))
        pixels = np.asarray(_decoded(path, image).convert("L" if gray else "RGB"))
        return pixels[..., None] if gray else pixels


def read_labels(path: Path, size: tuple[int, int] | None = None, index: int | None = None) -> Labels:
    """The pixels of a mask, a picture or slice `index` of a volume, as they are stored. Raises DataError.

    size: (height, width) of its image, which the mask must have, too.
    """
    if index is not None:
        pixels = _labels(path)[:, :, index]
        _check_size(path, pixels.shape, size)
        return Labels(pixels)
    with _opened(path) as image:
        _check_size(path, (image.height, image.width), size)
        if image.mode.startswith(DEEP):
            return Labels(_sixteen_bits(path, image))
        image = _decoded(path, image)
        if image.mode == "P":
            return Labels(np.asarray(image), np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3))
        if image.mode.startswith(GRAY):
            return Labels(np.asarray(image.convert("L")))
        pixels = np.asarray(image.convert("RGB"))
        gray = (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all()
        return Labels(pixels[..., 0] if gray else pixels)


def unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"{path} cannot be read ({error.strerror}): put it back or allow reading it, or remove it")


def volume_header(path: Path):
    """nibabel's image, of which nothing is decoded yet. Raises DataError unless it has three dimensions, or four."""
    import nibabel

    try:
        image = nibabel.load(path)
    except OSError as error:
        raise unreadable(path, error) if error.errno else _not_nifti(path, error) from None
    except (EOFError, ValueError, nibabel.filebasedimages.ImageFileError) as error:
        raise _not_nifti(path, error) from None
    if len(image.shape) not in (3, 4) or 0 in image.shape:
        raise DataError(
            f"{path} has the shape {' × '.join(map(str, image.shape))}: a volume has three dimensions, or four with channels"
        )
    return image


def volume_numbers(path: Path) -> np.ndarray:
    """What a volume's file holds, in its own units. Raises DataError."""
    image = volume_header(path)
    try:
        return np.asarray(image.dataobj)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{path} cannot be decoded ({error}): it is truncated or damaged, copy it anew") from None


@remembered
def volume(path: Path) -> np.ndarray:
    """A volume as uint8 or uint16. Whole numbers keep their steps; others are scaled between the volume's OUTLIERS."""
    numbers = volume_numbers(path)
    if numbers.dtype in (np.uint8, np.uint16):
        return numbers
    if not np.isfinite(numbers).all():
        raise DataError(f"{path} has values that are not finite: replace them, for example by its least value")
    low, high = float(numbers.min()), float(numbers.max())
    if low >= -SIGNED and high < SIGNED and (numbers == np.rint(numbers)).all():
        return (numbers.astype(np.int32) + SIGNED).astype(np.uint16)
    low, high = np.percentile(numbers, OUTLIERS)
    return ((numbers.clip(low, high) - low) * (65535 / max(high - low, 1e-12))).round().astype(np.uint16)


@remembered
def _labels(path: Path) -> np.ndarray:
    numbers = volume_numbers(path)
    if numbers.ndim != 3 or not (np.isfinite(numbers).all() and (numbers == np.rint(numbers)).all()):
        raise DataError(f"{path} is no segmentation: it has three dimensions and whole numbers for labels")
    return numbers.astype(np.int32)


def _check_size(path: Path, found: tuple[int, ...], wanted: tuple[int, int] | None) -> None:
    if wanted and tuple(found) != tuple(wanted):
        raise DataError(
            f"{path} is {found[1]} × {found[0]} px, but its image is {wanted[1]} × {wanted[0]}: mask and image must have one size"
        )


def _opened(path: Path) -> Image.Image:
    """The image, not decoded yet. Raises DataError."""
    try:
        image = Image.open(path)
    except UnidentifiedImageError:
        what = "is empty" if path.stat().st_size == 0 else "is not an image"
        raise DataError(f"{path} {what}: give a PNG, JPEG, TIFF, BMP or NIfTI file, or remove it") from None
    except Image.DecompressionBombError:
        raise _too_large(path) from None
    except (OSError, SyntaxError, ValueError) as error:
        raise _damaged(path, error) from None
    # Pillow itself only warns up to twice the limit
    if Image.MAX_IMAGE_PIXELS and image.width * image.height > Image.MAX_IMAGE_PIXELS:
        image.close()
        raise _too_large(path)
    return image


def _decoded(path: Path, image: Image.Image) -> Image.Image:
    try:
        image.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise _damaged(path, error) from None
    return image


def _sixteen_bits(path: Path, image: Image.Image) -> np.ndarray:
    pixels = np.asarray(_decoded(path, image))
    if pixels.dtype.kind == "f" or pixels.min() < 0 or pixels.max() > 65535:
        raise DataError(
            f"{path} has pixels of more than 16 bits (mode {image.mode}): save it with 8 or 16 bits a pixel"
        )
    return pixels.astype(np.uint16)


def _too_large(path: Path) -> DataError:
    return DataError(f"{path} has more than {Image.MAX_IMAGE_PIXELS:,} pixels: cut it into smaller images")


def _damaged(path: Path, error: Exception) -> DataError:
    if isinstance(error, OSError) and error.errno:  # of the file system, such as a link that leads nowhere
        return unreadable(path, error)
    return DataError(f"{path} cannot be decoded ({error}): it is truncated or damaged, copy it anew")


def _not_nifti(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} is not a NIfTI volume ({error}): copy it anew, or remove it")
