"""Pictures: PNG, JPEG, TIFF and BMP of 8 or 16 bits a channel, turned as EXIF says, without alpha.

Pillow decodes 8 bits, imagecodecs PNGs of 16 and tifffile TIFFs of more than 8 bits or with extra channels, which Pillow
would round or leave out. Pixels are read as stored: colour profiles are not applied.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from diffseg.data.masks import Labels
from diffseg.data.opening import Shape, data_errors, open_file
from diffseg.errors import DataError

FORMATS = ("PNG", "JPEG", "TIFF", "BMP")  # that are ever handed to a decoder
TIFFS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # how they begin
GRAY = ("1", "L", "LA")  # Pillow's modes of one channel
MODES = (*GRAY, "P", "PA", "RGB", "RGBA", "YCbCr")  # that are read
LEVELS = 16  # pages of a TIFF that may be the first one made smaller
LUMA = np.array((0.299, 0.587, 0.114), np.float32)  # ITU-R 601, as Pillow turns colours to gray
ORIENTATION = 0x0112  # tag of EXIF and TIFF
TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # by its value: what shows the stored pixels upright
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
class _Picture:
    """A picture whose header alone has been read."""

    path: Path
    size: tuple[int, int]  # height and width as stored
    channels: int  # 1 or 3, without alpha
    bits: int  # a channel
    orientation: int
    image: Image.Image | None = None  # Pillow's, of 8 bits at most
    decode: Callable[..., np.ndarray] | None = None  # of others: [H, W, S], alpha last

    @property
    def shape(self) -> Shape:
        height, width = self.size[::-1] if self.orientation > 4 else self.size
        return Shape(height, width, self.channels, self.bits > 8)

    def upright(self, pixels: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(TURNS[self.orientation](pixels))


def read_shape(path: Path) -> Shape:
    """The shape of a picture, without decoding. Raises DataError if the file cannot be read."""
    with _open_picture(path) as picture:
        return picture.shape


def read_image(path: Path, channels: int, at_least: int | None = None) -> np.ndarray:
    """uint8 or uint16 [H, W, C]; C is 1 for gray pictures, and for all if channels is 1. Raises DataError.

    at_least: JPEGs may be read smaller, by an integer factor, as long as no side falls below it, which bounds time and
    memory for large photographs.
    """
    with _open_picture(path) as picture, data_errors(path):
        gray = picture.channels == 1 or channels == 1
        if picture.image is None:
            pixels = _opaque(path, picture)
            if gray and picture.channels == 3:
                pixels = (pixels @ LUMA).round().astype(pixels.dtype)[..., None]
            return picture.upright(pixels)
        image = picture.image
        if at_least:
            image.draft("L" if gray else "RGB", (at_least, at_least))
        image.load()
        if image.has_transparency_data and _alpha(image).min() < 255:
            raise _transparent(path)
        pixels = picture.upright(np.asarray(image.convert("L" if gray else "RGB")))
        return pixels[..., None] if gray else pixels


def read_labels(path: Path, size: tuple[int, int] | None = None) -> Labels:
    """The pixels of a mask as they are stored, upright. Raises DataError. size: (height, width) that it must have.

    An alpha channel is left out where it says nothing, and is the mask where nothing else does.
    """
    with _open_picture(path) as picture:
        check_size(path, picture.shape.size, size)
        with data_errors(path):
            labels = _labels(picture)
    pixels = labels.pixels
    if labels.coloured and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., 0]
    elif labels.coloured and pixels.dtype != np.uint8:
        raise DataError(f"{path} is a mask in colours of 16 bits: save it with 8 bits a channel")
    return Labels(picture.upright(pixels), labels.palette)


def check_size(path: Path, found: tuple[int, ...], wanted: tuple[int, int] | None) -> None:
    """Raise DataError if a mask has another (height, width) than its image."""
    if wanted and tuple(found) != tuple(wanted):
        swapped = tuple(found) == tuple(wanted)[::-1]
        turned = ", and only one of them seems to be turned by its EXIF orientation: save both upright, without it"
        raise DataError(
            f"{path} is {found[1]} × {found[0]} px, but its image is {wanted[1]} × {wanted[0]}: mask and image must have one size"
            + turned * swapped
        )


def _labels(picture: _Picture) -> Labels:
    path, image = picture.path, picture.image
    if image is None:
        pixels = picture.decode(stretched=False)
        alpha = pixels[..., -1] if pixels.shape[2] in (2, 4) else None
        colours = pixels[..., : picture.channels]
        pixels = colours[..., 0] if picture.channels == 1 else colours
        return Labels(pixels if alpha is None else _masked(path, pixels, alpha))
    image.load()
    if image.mode == "P":  # the entries of a palette; which of them are transparent says nothing more
        return Labels(np.asarray(image), np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3))
    pixels = np.asarray(image.convert("L" if image.mode in GRAY else "RGB"))
    return Labels(_masked(path, pixels, _alpha(image)) if image.mode in ("LA", "PA", "RGBA") else pixels)


def _masked(path: Path, pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """The mask of pixels [H, W] or [H, W, 3] and alpha [H, W]: whichever of them varies. Raises DataError if both do."""
    hidden = alpha < np.iinfo(alpha.dtype).max
    if not hidden.any() or not pixels[hidden].any():  # opaque, or black where it is not: alpha adds nothing
        return pixels
    if (pixels == pixels[0, 0]).all():
        return alpha
    raise DataError(
        f"{path} has an alpha channel besides its colours, and either could be the mask: save it without the alpha channel"
    )


def _alpha(image: Image.Image) -> np.ndarray:
    """uint8 [H, W] of a decoded picture with alpha, or with a colour or palette entries that are transparent."""
    return np.asarray(image.convert("LA" if image.mode in GRAY else "RGBA").getchannel("A"))


def _opaque(path: Path, picture: _Picture) -> np.ndarray:
    """The decoded pixels [H, W, 1 or 3]. Raises DataError if there is an alpha channel that matters."""
    pixels = picture.decode()
    if pixels.shape[2] in (2, 4) and pixels[..., -1].min() < np.iinfo(pixels.dtype).max:
        raise _transparent(path)
    return pixels[..., : picture.channels]


@contextmanager
def _open_picture(path: Path) -> Iterator[_Picture]:
    """The picture, not decoded yet. Raises DataError."""
    with open_file(path) as file:
        start = file.read(4)
        file.seek(0)
        with data_errors(path):
            picture = (_tiff if start in TIFFS else _of_pillow)(path, file)
        # Pillow itself only warns up to twice the limit
        if Image.MAX_IMAGE_PIXELS and picture.size[0] * picture.size[1] > Image.MAX_IMAGE_PIXELS:
            raise _too_large(path)
        yield picture


def _of_pillow(path: Path, file: BinaryIO) -> _Picture:
    image = _identified(path, file)
    size = image.height, image.width
    if image.format == "PNG":
        if image.n_frames > 1:
            raise _several(path, image.n_frames, "frames")
        if "exif" not in image.info and (exif := _late_exif(file)):
            image.info["exif"] = exif
        file.seek(24)
        bits, colour = file.read(2)
        if bits == 16:
            decode = partial(_decoded_png, file)
            return _Picture(path, size, 1 if colour in (0, 4) else 3, 16, _orientation(image), decode=decode)
    if image.mode not in MODES:
        raise _foreign(path, image.mode)
    return _Picture(path, size, 1 if image.mode in GRAY else 3, 8, _orientation(image), image)


def _identified(path: Path, file: BinaryIO) -> Image.Image:
    try:
        return Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        what = "is empty" if path.stat().st_size == 0 else f"is not an image in {', '.join(FORMATS)}"
        raise DataError(f"{path} {what}: give a PNG, JPEG, TIFF, BMP or NIfTI file, or remove it") from None
    except Image.DecompressionBombError:
        raise _too_large(path) from None


def _late_exif(file: BinaryIO) -> bytes | None:
    """The eXIf chunk of a PNG, which Pillow does not see behind the pixels before it has decoded them."""
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


def _orientation(image: Image.Image) -> int:
    """1 to 8; 1, upright, where EXIF says nothing or is garbled, as every viewer takes it."""
    try:
        found = Image.Image.getexif(image).get(ORIENTATION)  # a PNG's own method would decode it
    except Exception:  # whatever damaged bytes lead to
        return 1
    return found if found in TURNS else 1


def _decoded_png(file: BinaryIO, stretched: bool = True) -> np.ndarray:
    """uint16 [H, W, S] of a PNG of 16 bits, which need no stretching; a transparent colour has become alpha."""
    import imagecodecs

    file.seek(0)
    pixels = imagecodecs.png_decode(file.read())
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _tiff(path: Path, file: BinaryIO) -> _Picture:
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it writes about odd tags, to standard error
    pages = tifffile.TiffFile(file, name=path.name).pages
    page, count = pages[0], len(pages)  # iterating over pages that name each other would not end
    thumbnails = all(pages[index].is_reduced for index in range(1, min(count, LEVELS)))
    bits, kind = page.bitspersample, page.sampleformat
    orientation = int(page.tags.valueof(ORIENTATION, 1))
    if not thumbnails or count > LEVELS or page.imagedepth > 1:
        raise _several(path, max(count, page.imagedepth), "pages")
    colours = {0: 1, 1: 1, 2: 3, 3: 3, 6: 3}.get(int(page.photometric), 0)  # gray, inverted or not, RGB, palette, YCbCr
    samples = page.samplesperpixel
    if not colours or (page.photometric == 3 and bits > 8):
        raise _foreign(path, getattr(page.photometric, "name", str(page.photometric)))
    if samples - (1 if page.photometric == 3 else colours) not in (0, 1):
        raise DataError(
            f"{path} has {samples} channels: a picture has 1 or 3, so save each channel as a file of its own"
        )
    size = page.imagelength, page.imagewidth
    if bits <= 8 and kind == 1 and samples in (1, 3):
        file.seek(0)
        image = _identified(path, file)  # which turns TIFFs itself
        return _Picture(path, (image.height, image.width), 1 if image.mode in GRAY else 3, 8, 1, image)
    return _Picture(
        path, size, colours, bits, orientation if orientation in TURNS else 1, decode=partial(_decoded_tiff, path, page)
    )


def _decoded_tiff(path: Path, page, stretched: bool = True) -> np.ndarray:
    """uint8 or uint16 [H, W, S]; 9 to 15 bits are stretched to 16, labels are not. Raises DataError."""
    pixels = page.asarray()
    pixels = np.moveaxis(pixels, 0, -1) if page.axes == "SYX" else pixels
    if pixels.dtype.kind not in "iu" or pixels.max() > 65535:
        raise DataError(
            f"{path} has pixels of more than 16 bits or with fractions ({pixels.dtype}): save it with 8 or 16 bits"
        )
    if pixels.min() < 0:
        raise DataError(f"{path} has pixels below 0 ({pixels.dtype}): save it with 8 or 16 bits without a sign")
    bits = min(page.bitspersample, 16)
    if page.photometric == 0:
        pixels = 2**bits - 1 - pixels
    if stretched and 8 < bits < 16:
        pixels = (pixels.astype(np.uint32) * 65535 + 2 ** (bits - 1)) // (2**bits - 1)
    return pixels.astype(np.uint16 if bits > 8 else np.uint8).reshape(*pixels.shape[:2], -1)


def _several(path: Path, count: int, what: str) -> DataError:
    return DataError(f"{path} holds {count} {what}, and a picture has one: save each of them as a file of its own")


def _transparent(path: Path) -> DataError:
    return DataError(f"{path} has an alpha channel that is not opaque everywhere: save it without the alpha channel")


def _foreign(path: Path, colours: str) -> DataError:
    return DataError(f"{path} has its colours as {colours}: save it as gray or RGB")


def _too_large(path: Path) -> DataError:
    return DataError(f"{path} has more than {Image.MAX_IMAGE_PIXELS:,} pixels: cut it into smaller images")
