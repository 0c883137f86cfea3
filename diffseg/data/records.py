"""What a layout finds on disk, and how one image with its mask is read. Every fault is a DataError of one sentence."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from diffseg.errors import DataError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")


@dataclass(frozen=True)
class Record:
    """One image of a data set and where its mask comes from."""

    name: str
    split: str  # train or test
    image: Path
    annotation: Path  # mask image, or XML
    read_mask: Callable[[Path, tuple[int, int]], np.ndarray] = field(
        repr=False
    )  # (file, (height, width)) → bool [H, W]

    @property
    def files(self) -> tuple[Path, Path]:
        return self.image, self.annotation

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """(image uint8 [H, W, 3], mask bool [H, W]) at full size. Raises DataError."""
        image = read_image(self.image)
        return image, self.read_mask(self.annotation, image.shape[:2])


@dataclass(frozen=True)
class Found:
    """The pairs of a data set, and one sentence for every file that has no partner."""

    records: tuple[Record, ...]
    problems: tuple[str, ...] = ()


def joined(parts: list[Found]) -> Found:
    return Found(tuple(r for part in parts for r in part.records), tuple(p for part in parts for p in part.problems))


def read_image(path: Path) -> np.ndarray:
    """uint8 [H, W, 3]; gray is repeated."""
    return np.asarray(_open(path, "RGB"))


def read_mask(path: Path, size: tuple[int, int]) -> np.ndarray:
    """bool [H, W] from a mask image of two values, 0 for background. size: (height, width) of its image."""
    pixels = np.asarray(_open(path, "L"))
    if pixels.shape != size:
        raise DataError(
            f"{path} is {pixels.shape[1]} × {pixels.shape[0]} px, but its image is {size[1]} × {size[0]}: "
            "mask and image must have one size"
        )
    values = np.unique(pixels)
    if not (set(values.tolist()) <= {0, 255} or set(values.tolist()) <= {0, 1}):
        shown = ", ".join(map(str, values[:6])) + (", …" if len(values) > 6 else "")
        raise DataError(
            f"{path} has the values {shown}: a mask holds 0 for background and 255 (or 1) for foreground, nothing else"
        )
    return pixels > 0


def images_in(folder: Path) -> dict[str, Path]:
    """Image files of a folder by stem. Raises DataError if two share one."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in EXTENSIONS and not path.name.startswith("."):
            if path.stem in found:
                raise DataError(f"{path} and {found[path.stem].name} have one name: leave only one of them")
            found[path.stem] = path
    return found


def pairs(split: str, images: dict[str, Path], annotations: dict[str, Path], reader: Callable = read_mask) -> Found:
    """Records of the names in both, problems for those in one only."""
    records = tuple(
        Record(name, split, images[name], annotations[name], reader)
        for name in sorted(images.keys() & annotations.keys())
    )
    problems = [
        f"{images[name]} has no mask: add it, or remove the image"
        for name in sorted(images.keys() - annotations.keys())
    ]
    problems += [
        f"{annotations[name]} has no image: add it, or remove the mask"
        for name in sorted(annotations.keys() - images.keys())
    ]
    return Found(records, tuple(problems))


def _open(path: Path, mode: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd TIFF tags, say
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return image.convert(mode)
    except UnidentifiedImageError:
        what = "is empty" if path.stat().st_size == 0 else "is not an image"
        raise DataError(f"{path} {what}: give a PNG, JPEG, TIFF or BMP file, or remove it") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(f"{path} has more than {Image.MAX_IMAGE_PIXELS:,} pixels: cut it into smaller images") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path} cannot be decoded ({error}): it is truncated or damaged, copy it anew") from None
