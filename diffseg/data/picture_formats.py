"""Formats of pictures: headers are read and checked before memory is spent, and each format has its decoder.

Pillow decodes 8 bits, imagecodecs PNGs of 16 bits, and tifffile TIFFs of more than 8 bits or with extra channels, which
Pillow would round or leave out.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from diffseg.data.opening import Shape, data_errors, open_file
from diffseg.errors import DataError

FORMATS = ("PNG", "JPEG", "TIFF", "BMP")  # that are ever handed to a decoder
TIFFS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # first bytes of TIFF and BigTIFF files
GRAY = ("1", "L", "LA")  # Pillow's modes of one channel
MODES = (*GRAY, "P", "PA", "RGB", "RGBA", "YCbCr")  # that are read
LEVELS = 16  # pages of a TIFF that may be reduced copies of the first one
COLOURS = {0: 1, 1: 1, 2: 3, 3: 3, 6: 3}  # channels by TIFF's photometric: gray inverted or not, RGB, palette, YCbCr
ORIENTATION = 0x0112  # tag of EXIF and TIFF
TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # by the tag's value: turns the stored pixels upright
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels.swapaxes(0, 1)[:, ::-1],
    7: lambda pixels: pixels.swapaxes(0, 1)[::-1, ::-1],
    8: lambda pixels: pixels.swapaxes(0, 1)[::-1],
}


@dataclass(frozen=True)
class Picture:
    """A picture whose header alone has been read."""

    path: Path
    size: tuple[int, int]  # height and width as stored
    channels: int  # 1 or 3, without alpha
    bits: int  # a channel
    orientation: int  # a key of TURNS
    image: Image.Image | None  # Pillow's image, if Pillow decodes the file
    decoder: Callable[[bool], np.ndarray] | None = None  # otherwise; its argument is that of `decode`
    inverted: bool = False  # whether it is stored with 0 as white, which decoders turn around

    @property
    def shape(self) -> Shape:
        """The shape of the upright picture."""
        height, width = self.size[::-1] if self.orientation > 4 else self.size
        return Shape(height, width, self.channels, self.bits > 8)

    def decode(self, stretched: bool = True) -> np.ndarray:
        """Decode uint8 or uint16 [H, W, S] of a file that Pillow does not decode; alpha is the last sample.

        stretched: map 9 to 15 bits to the range of 16 bits, which labels must not be.
        """
        if self.decoder is None:
            raise ValueError(f"Pillow decodes {self.path}")
        return self.decoder(stretched)

    def upright(self, pixels: np.ndarray) -> np.ndarray:
        """Turn stored pixels [H, W, …] upright."""
        return np.ascontiguousarray(TURNS[self.orientation](pixels))


@contextmanager
def open_picture(path: Path) -> Iterator[Picture]:
    """Open a picture and read its header. Raises DataError."""
    with open_file(path) as file:
        start = file.read(4)
        file.seek(0)
        with data_errors(path):
            picture = (_open_tiff if start in TIFFS else _open_with_pillow)(path, file)
        # Pillow itself only warns up to twice the limit
        if Image.MAX_IMAGE_PIXELS and picture.size[0] * picture.size[1] > Image.MAX_IMAGE_PIXELS:
            raise _too_large(path)
        yield picture


def _open_with_pillow(path: Path, file: BinaryIO) -> Picture:
    """Read the header of a PNG, JPEG or BMP."""
    image = _identify(path, file)
    size = image.height, image.width
    if image.format == "PNG":
        if (frames := getattr(image, "n_frames", 1)) > 1:
            raise _several(path, frames, "frames")
        if "exif" not in image.info and (exif := _find_late_exif(file)):
            image.info["exif"] = exif
        file.seek(24)
        bits, colour = file.read(2)
        if bits == 16:
            channels = 1 if colour in (0, 4) else 3
            return Picture(path, size, channels, 16, _read_orientation(image), None, partial(_decode_png, file))
    if image.mode not in MODES:
        raise _foreign(path, image.mode)
    return Picture(path, size, 1 if image.mode in GRAY else 3, 8, _read_orientation(image), image)


def _identify(path: Path, file: BinaryIO) -> Image.Image:
    """Open a file with Pillow. Raises DataError for other formats and too many pixels."""
    try:
        return Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        what = "is empty" if path.stat().st_size == 0 else f"is not an image in {', '.join(FORMATS)}"
        raise DataError(f"{path} {what}: give a PNG, JPEG, TIFF, BMP or NIfTI file, or remove it") from None
    except Image.DecompressionBombError:
        raise _too_large(path) from None


def _find_late_exif(file: BinaryIO) -> bytes | None:
    """Return the eXIf chunk of a PNG. Behind the pixels, Pillow sees it only after decoding them."""
    place = file.tell()
    file.seek(8)
    found = None
    while found is None and len(head := file.read(8)) == 8:
        length = int.from_bytes(head[:4], "big")
        if head[4:] == b"eXIf":
            found = file.read(length)
        file.seek(length + 4, 1)
    file.seek(place)
    return found


def _read_orientation(image: Image.Image) -> int:
    """Return 1 to 8; 1, upright, if EXIF says nothing or is garbled, as every viewer takes it."""
    try:
        found = Image.Image.getexif(image).get(ORIENTATION)  # a PNG's own method would decode it
    except Exception:  # whatever damaged bytes lead to
        return 1
    return found if found in TURNS else 1


def _decode_png(file: BinaryIO, stretched: bool) -> np.ndarray:
    """Decode uint16 [H, W, S] of a PNG of 16 bits, which need no stretching. A transparent colour becomes alpha."""
    import imagecodecs

    file.seek(0)
    pixels = np.asarray(imagecodecs.png_decode(file.read()))
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _open_tiff(path: Path, file: BinaryIO) -> Picture:
    """Read the header of a TIFF. Raises DataError for several pages, and for colours that are not read."""
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it writes about odd tags, to standard error
    pages: Any = tifffile.TiffFile(file, name=path.name).pages  # typed as if every page could lack its tags
    page, count = pages[0], len(pages)  # iterating over pages that name each other would not end
    thumbnails = all(pages[index].is_reduced for index in range(1, min(count, LEVELS)))
    turn = int(page.tags.valueof(ORIENTATION, 1))
    if not thumbnails or count > LEVELS or page.imagedepth > 1:
        raise _several(path, max(count, page.imagedepth), "pages")
    bits, samples, palette = page.bitspersample, page.samplesperpixel, page.photometric == 3
    colours, inverted = COLOURS.get(int(page.photometric), 0), int(page.photometric) == 0
    if not colours or (palette and bits > 8):
        raise _foreign(path, getattr(page.photometric, "name", str(page.photometric)))
    if samples - (1 if palette else colours) not in (0, 1):
        raise DataError(
            f"{path} has {samples} channels: a picture has 1 or 3, so save each channel as a file of its own"
        )
    if bits <= 8 and page.sampleformat == 1 and samples in (1, 3):
        file.seek(0)
        image = _identify(path, file)  # which turns TIFFs itself
        channels = 1 if image.mode in GRAY else 3
        return Picture(path, (image.height, image.width), channels, 8, 1, image, inverted=inverted)
    size, turn = (page.imagelength, page.imagewidth), turn if turn in TURNS else 1
    return Picture(path, size, colours, bits, turn, None, partial(_decode_tiff, path, page), inverted)


def _decode_tiff(path: Path, page: Any, stretched: bool) -> np.ndarray:
    """Decode uint8 or uint16 [H, W, S] of a page; 9 to 15 bits are stretched to 16, labels are not. Raises DataError."""
    pixels = np.asarray(page.asarray())
    pixels = np.moveaxis(pixels, 0, -1) if page.axes == "SYX" else pixels
    if pixels.dtype.kind not in "iu" or pixels.max() > 65535:
        raise DataError(
            f"{path} has pixels of more than 16 bits or with fractions ({pixels.dtype}): save it with 8 or 16 bits"
        )
    if pixels.min() < 0:
        raise DataError(f"{path} has pixels below 0 ({pixels.dtype}): save it with 8 or 16 bits without a sign")
    bits = min(page.bitspersample, 16)
    if page.photometric == 0:
        pixels = 2**bits - 1 - pixels.astype(np.int64)
    if stretched and 8 < bits < 16:
        pixels = (pixels.astype(np.uint32) * 65535 + 2 ** (bits - 1)) // (2**bits - 1)
    return pixels.astype(np.uint16 if bits > 8 else np.uint8).reshape(*pixels.shape[:2], -1)


def _several(path: Path, count: int, what: str) -> DataError:
    """Return the error for a file of several frames or pages."""
    return DataError(f"{path} holds {count} {what}, and a picture has one: save each of them as a file of its own")


def _foreign(path: Path, colours: str) -> DataError:
    """Return the error for colours that are not read, such as CMYK."""
    return DataError(f"{path} has its colours as {colours}: save it as gray or RGB")


def _too_large(path: Path) -> DataError:
    """Return the error for more pixels than Pillow's limit."""
    return DataError(f"{path} has more than {Image.MAX_IMAGE_PIXELS:,} pixels: cut it into smaller images")
