"""What a layout finds on disk, and how one image with its mask is read. Every fault is a DataError of one sentence."""

import hashlib
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from diffseg.errors import DataError

TEST_SHARE = 0.2
EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
DEEP = ("I", "F")  # Pillow's modes of more than 8 bits begin so; converting them to 8 bits cuts values off


@dataclass(frozen=True)
class Record:
    """One image of a data set and where its mask comes from."""

    name: str
    split: str  # train or test
    image: Path
    annotations: tuple[Path, ...]  # one a rater: mask image, or XML
    read_mask: Callable[[Path, tuple[int, int]], np.ndarray] = field(
        repr=False
    )  # (file, (height, width)) → bool [H, W]
    group: str | None = None  # the patient, where the layout tells: all of a group are in one split

    @property
    def files(self) -> tuple[Path, ...]:
        return self.image, *self.annotations

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """(image uint8 [H, W, C], masks bool [R, H, W], one a rater) at full size. Raises DataError."""
        image = read_image(self.image)
        return image, np.stack([self.read_mask(path, image.shape[:2]) for path in self.annotations])


@dataclass(frozen=True)
class Found:
    """The pairs of a data set, and one sentence for every file that has no partner."""

    records: tuple[Record, ...]
    problems: tuple[str, ...] = ()


def joined(parts: list[Found]) -> Found:
    return Found(tuple(r for part in parts for r in part.records), tuple(p for part in parts for p in part.problems))


def in_parallel(function: Callable, records: list[Record] | tuple[Record, ...]) -> list:
    """The function of every record, in order, on all processors: decoding releases the interpreter's lock.

    Pillow's warnings (odd TIFF tags, say) are silenced out here, because the filters belong to the process: threads
    that each save and restore them leave them changed.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        with ThreadPoolExecutor() as pool:
            return list(pool.map(function, records))


def read_image(path: Path) -> np.ndarray:
    """uint8 [H, W, 3]; gray is repeated. Raises DataError, also for more than 8 bits a channel."""
    image = _open(path)
    if image.mode.startswith(DEEP):
        raise DataError(
            f"{path} has pixels of more than 8 bits (mode {image.mode}), of which 8 bits would keep only a part: "
            "choose the range that matters and save it as 8-bit gray or RGB"
        )
    return np.asarray(image.convert("RGB"))


def read_mask(path: Path, size: tuple[int, int]) -> np.ndarray:
    """bool [H, W] from a mask image of two values, 0 for background. size: (height, width) of its image."""
    image = _open(path)
    pixels = np.asarray(image if image.mode.startswith(DEEP) else image.convert("L"))
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


def unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"{path} cannot be read ({error.strerror}): put it back or allow reading it, or remove it")


def files_in(folder: Path, extensions: tuple[str, ...] = EXTENSIONS) -> dict[str, list[Path]]:
    """Files of a folder by stem; it should be one a stem."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in extensions and not path.name.startswith("."):
            found.setdefault(path.stem, []).append(path)
    return found


def pairs(
    split: str, images: dict[str, list[Path]], annotations: dict[str, list[Path]], reader: Callable = read_mask
) -> Found:
    """Records of the names in both, problems for those in one only and for names that several files share."""
    records = tuple(
        Record(name, split, images[name][0], (annotations[name][0],), reader)
        for name in sorted(images.keys() & annotations.keys())
    )
    problems = [
        f"{images[name][0]} has no mask: add it, or remove the image"
        for name in sorted(images.keys() - annotations.keys())
    ]
    problems += [
        f"{annotations[name][0]} has no image: add it, or remove the mask"
        for name in sorted(annotations.keys() - images.keys())
    ]
    problems += [
        f"{first} and {' and '.join(path.name for path in others)} have one name: leave only one of them"
        for first, *others in (*images.values(), *annotations.values())
        if others
    ]
    return Found(records, tuple(problems))


def _open(path: Path) -> Image.Image:
    """The image, decoded. Raises DataError."""
    try:
        with Image.open(path) as image:
            # Pillow itself only warns up to twice the limit
            if Image.MAX_IMAGE_PIXELS and image.width * image.height > Image.MAX_IMAGE_PIXELS:
                raise Image.DecompressionBombError
            image.load()
            return image
    except UnidentifiedImageError:
        what = "is empty" if path.stat().st_size == 0 else "is not an image"
        raise DataError(f"{path} {what}: give a PNG, JPEG, TIFF or BMP file, or remove it") from None
    except Image.DecompressionBombError:
        raise DataError(f"{path} has more than {Image.MAX_IMAGE_PIXELS:,} pixels: cut it into smaller images") from None
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, OSError) and error.errno:  # of the file system, such as a link that leads nowhere
            raise unreadable(path, error) from None
        raise DataError(f"{path} cannot be decoded ({error}): it is truncated or damaged, copy it anew") from None


def drawn_for_testing(name: str) -> bool:
    """Whether an image or a group of that name is one of the fifth that is for testing, where a layout has no split.

    The draw is a hash of the name, so adding others moves none.
    """
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) < TEST_SHARE * 2**32
