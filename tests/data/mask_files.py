"""Masks of every kind: drawings of two round objects, by what is found in them without data.foreground."""

import io

import numpy as np
from PIL import Image, ImageFilter
from scipy.ndimage import label

SIDE = 64
NOISE = np.random.default_rng(0)
Y, X = np.mgrid[:SIDE, :SIDE]


def blobs(k):
    """Return two round objects, bool [64, 64]."""
    return (np.hypot(Y - 20 - k, X - 22) < 11) | (np.hypot(Y - 46, X - 44 + k) < 9)


def gray(pixels, mode=None):
    return Image.fromarray(np.asarray(pixels), mode)


def plain(k):
    return gray(np.uint8(255) * blobs(k))


def jpeg(image, quality=75):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(io.BytesIO(file.getvalue()))


def palette(k, *colours):
    image = Image.fromarray(blobs(k).astype(np.uint8), "P")
    image.putpalette([channel for colour in colours for channel in colour])
    return image


def colours(k, *found):
    """Draw the objects in the given colours on black."""
    labels = label(blobs(k))[0]
    return gray(np.array([(0, 0, 0), *found], np.uint8)[labels.clip(max=len(found))])


def large(pixels):
    """Enlarge the pixels fourfold, to uint8 [256, 256]."""
    return np.kron(pixels, np.ones((4, 4))).astype(np.uint8)


def enlarged(image):
    return image.resize((2 * SIDE, 2 * SIDE), Image.Resampling.BICUBIC).resize((SIDE, SIDE), Image.Resampling.BILINEAR)


def void(k):
    """Draw classes 1 and 2 with a border of 255, as PASCAL VOC does."""
    labels, inside = label(blobs(k))[0].astype(np.uint8), plain(k)
    border = np.asarray(inside.filter(ImageFilter.MaxFilter(3))) != np.asarray(inside.filter(ImageFilter.MinFilter(3)))
    return gray(np.where(border, np.uint8(255), labels))


def vessels(k):
    """Draw lines of one pixel, of the classes 128 and 255."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[5 + k :: 8, 4:-4] = 128
    mask[9 + k :: 8, 4:-4] = 255
    return gray(mask)


RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)

TAKEN = {  # by name: how mask k is drawn; its foreground without data.foreground is blobs(k)
    "0 and 255": plain,
    "0 and 1": lambda k: gray(blobs(k).astype(np.uint8)),
    "either": lambda k: gray(blobs(k).astype(np.uint8) * np.uint8(255 if k % 2 else 1)),
    "one bit": lambda k: plain(k).convert("1"),
    "gray in three channels": lambda k: plain(k).convert("RGB"),
    "a palette of black and white": lambda k: palette(k, BLACK, WHITE),
    "a palette of black and red": lambda k: palette(k, BLACK, RED),
    "JPEG": lambda k: jpeg(plain(k)),
    "poor JPEG": lambda k: jpeg(plain(k), 30),
    "JPEG in colour": lambda k: jpeg(plain(k).convert("RGB")),
    "one JPEG": lambda k: plain(k) if k else jpeg(plain(k)),
    "resized": lambda k: enlarged(plain(k)),
    "turned": lambda k: plain(k).rotate(0.001, Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(0.5)),
}
CUT = ("JPEG", "poor JPEG", "JPEG in colour", "one JPEG", "resized", "turned")

ASKED = {  # by name: how mask k is drawn, words of the error, the rule that solves it, and the foreground by that rule
    "classes": (lambda k: gray(label(blobs(k))[0].astype(np.uint8)), "values 0, 1, 2", "nonzero", blobs),
    "a class": (lambda k: gray(label(blobs(k))[0].astype(np.uint8)), "values 0, 1, 2", [1], None),
    "one file of two objects": (
        lambda k: gray((blobs(k) if k else label(blobs(k))[0]).astype(np.uint8)), "values 0, 1, 2", "nonzero", blobs,
    ),
    "objects of 16 bits": (
        lambda k: gray((label(blobs(k))[0] * 300).astype(np.uint16)), "values 0, 300, 600", "nonzero", blobs,
    ),
    "another value": (lambda k: gray(blobs(k).astype(np.uint8) * np.uint8(7)), "values 0, 7", [7], blobs),
    "a void border": (void, "values 0, 1, 2, 255", [1], None),
    "thin classes": (vessels, "values 0, 128, 255", [128], None),
    "averaged raters": (
        lambda k: gray((85 * np.add(blobs(k).astype(np.uint8), 2 * blobs(k + 3).astype(np.uint8))).astype(np.uint8)),
        "values 0, 85, 170, 255", None, None,
    ),
    "soft": (
        lambda k: plain(k).filter(ImageFilter.GaussianBlur(5)),
        r"without a gap, and \d+\.\d% of the pixels of all masks lie between 0 and", ">=128", None,
    ),
    "classes as JPEG": (
        lambda k: jpeg(gray(large(label(blobs(k))[0] * 60))), "has levels and, as JPEG", ">=30", blobs,
    ),
    "another value as JPEG": (
        lambda k: jpeg(gray(large(blobs(k) * 200))), "has levels and, as JPEG", ">=100", blobs,
    ),
    "classes, resized": (
        lambda k: enlarged(gray((label(blobs(k))[0] * 100).astype(np.uint8))), "has levels and", ">=50", blobs,
    ),
    "photographs": (lambda k: gray(NOISE.integers(0, 256, (SIDE, SIDE), np.uint8)), "values without a gap", None, None),
    "red on black": (lambda k: colours(k, RED, RED), "values #000000, #ff0000", ["#ff0000"], blobs),
    "two colours": (lambda k: colours(k, RED, GREEN), "values #000000, #00ff00, #ff0000", "nonzero", blobs),
    "red on black, resized": (lambda k: enlarged(colours(k, RED, RED)), "of one hue on black", ">=128", blobs),
    "a palette of white and black": (
        lambda k: palette(k, WHITE, BLACK),
        r"entry 0 \(#ffffff\), which stands for background, is brighter than entry 1 \(#000000\)", ["#000000"], blobs,
    ),
    "one palette of white and black": (
        lambda k: palette(k, BLACK, WHITE) if k else palette(k, WHITE, BLACK), "stands for background", ["#ffffff"], None,
    ),
}  # fmt: skip
