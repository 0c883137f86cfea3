"""Pictures: PNG, JPEG, TIFF and BMP of 8 or 16 bits a channel, turned as EXIF says, without alpha.

Pixels are read as stored: colour profiles are not applied.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from diffseg.data.masks import MaskPixels
from diffseg.data.opening import Shape, data_errors
from diffseg.data.picture_formats import GRAY, Picture, open_picture
from diffseg.errors import DataError

LUMA = np.array((0.299, 0.587, 0.114), np.float32)  # ITU-R 601, as Pillow turns colours to gray


def read_shape(path: Path) -> Shape:
    """Read the shape of a picture from its header. Raises DataError if the file cannot be read."""
    with open_picture(path) as picture:
        return picture.shape


def read_image(path: Path, channels: int, at_least: int | None = None) -> np.ndarray:
    """Decode a picture: uint8 or uint16 [H, W, C]. Raises DataError.

    Args:
        channels: 1 to turn colours to gray. Otherwise C is 1 for gray pictures and 3 for others.
        at_least: JPEGs may be decoded smaller, by an integer factor, as long as no side falls below this many pixels. That
            bounds time and memory for large photographs.
    """
    with open_picture(path) as picture, data_errors(path):
        gray = picture.channels == 1 or channels == 1
        if picture.image is None:
            pixels = _decode_opaque(path, picture)
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


def read_labels(path: Path, size: tuple[int, int] | None = None) -> MaskPixels:
    """Decode the pixels of a mask as they are stored, upright. Raises DataError.

    An alpha channel is left out if it adds nothing, and is the mask if the colours are constant.

    Args:
        size: (height, width) that the mask must have.
    """
    with open_picture(path) as picture:
        if picture.inverted:
            raise DataError(
                f"{path} is a mask in a TIFF whose 0 is white (MinIsWhite), so that programs disagree on what it marks: save it as "
                "PNG, or as TIFF with MinIsBlack (of booleans: as numbers of 8 bits)"
            )
        check_size(path, picture.shape.size, size)
        with data_errors(path):
            labels = _decode_labels(picture)
    pixels = labels.pixels
    if labels.coloured and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., 0]
    elif labels.coloured and pixels.dtype != np.uint8:
        raise DataError(f"{path} is a mask in colours of 16 bits: save it with 8 bits a channel")
    return MaskPixels(picture.upright(pixels), labels.palette)


def check_size(path: Path, found: tuple[int, int], wanted: tuple[int, int] | None) -> None:
    """Raise DataError if a mask has another (height, width) than its image."""
    if wanted and tuple(found) != tuple(wanted):
        swapped = tuple(found) == tuple(wanted)[::-1]
        turned = ", and only one of them seems to be turned by its EXIF orientation: save both upright, without it"
        raise DataError(
            f"{path} is {found[1]} × {found[0]} px, but its image is {wanted[1]} × {wanted[0]}: mask and image must have one size"
            + turned * swapped
        )


def _decode_labels(picture: Picture) -> MaskPixels:
    """Decode the pixels of a mask as they are stored, with its palette if it has one."""
    path, image = picture.path, picture.image
    if image is None:
        pixels = picture.decode(stretched=False)
        alpha = pixels[..., -1] if pixels.shape[2] in (2, 4) else None
        colours = pixels[..., : picture.channels]
        pixels = colours[..., 0] if picture.channels == 1 else colours
        return MaskPixels(pixels if alpha is None else _choose_mask(path, pixels, alpha))
    image.load()
    if image.mode == "P":  # the entries of a palette; which of them are transparent says nothing more
        return MaskPixels(np.asarray(image), np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3))
    pixels = np.asarray(image.convert("L" if image.mode in GRAY else "RGB"))
    return MaskPixels(_choose_mask(path, pixels, _alpha(image)) if image.mode in ("LA", "PA", "RGBA") else pixels)


def _choose_mask(path: Path, pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Return pixels [H, W] or [H, W, 3], or alpha [H, W]: whichever varies. Raises DataError if both do."""
    hidden = alpha < np.iinfo(alpha.dtype).max
    if not hidden.any() or not pixels[hidden].any():  # opaque, or black where it is not: alpha adds nothing
        return pixels
    if (pixels == pixels[0, 0]).all():
        return alpha
    raise DataError(
        f"{path} has an alpha channel besides its colours, and either could be the mask: save it without the alpha channel"
    )


def _alpha(image: Image.Image) -> np.ndarray:
    """Return uint8 [H, W] of a decoded picture with alpha, or with a colour or palette entries that are transparent."""
    return np.asarray(image.convert("LA" if image.mode in GRAY else "RGBA").getchannel("A"))


def _decode_opaque(path: Path, picture: Picture) -> np.ndarray:
    """Decode the pixels [H, W, 1 or 3]. Raises DataError if an alpha channel is not opaque everywhere."""
    pixels = picture.decode()
    if pixels.shape[2] in (2, 4) and pixels[..., -1].min() < np.iinfo(pixels.dtype).max:
        raise _transparent(path)
    return pixels[..., : picture.channels]


def _transparent(path: Path) -> DataError:
    """Return the error for an alpha channel that hides pixels."""
    return DataError(f"{path} has an alpha channel that is not opaque everywhere: save it without the alpha channel")
