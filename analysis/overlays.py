"""Masks over images: classes in their colours, contours, and the colours of standard deviations."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageColor
from scipy import ndimage

Masks = npt.NDArray[np.bool_]

# The palette of Okabe & Ito without black, in its own order
CLASS_COLOURS = ["#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"]
FILL = 0.35  # opacity of a class over the image
TRUTH, PREDICTION = "#FFFFFF", "#E69F00"  # of contours
GREATEST = 0.5  # of a standard deviation of probabilities
COLOUR_SCALE = ["#000004", "#3B0F70", "#8C2981", "#DE4968", "#FE9F6D", "#FCFDBF"]  # the palette magma
SHADES = (1.0, 0.6, 0.35)  # of the palette's colours, where there are more classes than colours


def choose_colours(names: Sequence[str]) -> dict[str, str]:
    """Return the colour of each class. After a round of the palette, its colours return darker."""
    rounds = [
        "#" + "".join(f"{round(shade * part):02X}" for part in ImageColor.getrgb(colour))
        for shade in SHADES
        for colour in CLASS_COLOURS
    ]
    return {name: rounds[place % len(rounds)] for place, name in enumerate(names)}


def decide(maps: npt.NDArray[np.float64], exclusive: bool, threshold: float) -> Masks:
    """Return the masks of classes [K, H, W], given maps of their probabilities.

    Of exclusive classes and the background, a pixel belongs to the most probable one. Other classes contain the pixels with a
    probability above the threshold.
    """
    if not exclusive:
        return maps > threshold
    best = np.concatenate([1 - maps.sum(0, keepdims=True), maps]).argmax(0)
    masks: Masks = best == np.arange(1, len(maps) + 1)[:, None, None]
    return masks


def draw_overlay(image: Image.Image, masks: Masks, colours: Sequence[str]) -> Image.Image:
    """Draw masks [K, H, W] over an image, which gets their size. Contours are opaque, so that overlaps are seen."""
    shape = masks.shape[2], masks.shape[1]
    pixels = np.asarray(image.convert("RGB").resize(shape), np.float64)
    painted = [np.array(ImageColor.getrgb(colour), np.float64) for colour in colours]
    for mask, colour in zip(masks, painted, strict=True):
        pixels[mask] = (1 - FILL) * pixels[mask] + FILL * colour
    return draw_contours(Image.fromarray(pixels.round().astype(np.uint8)), masks, colours)


def draw_contours(image: Image.Image, masks: Masks, colours: Sequence[str]) -> Image.Image:
    """Draw the contours of masks [K, H, W] over an image, which gets their size."""
    pixels = np.asarray(image.convert("RGB").resize((masks.shape[2], masks.shape[1]))).copy()
    for mask, colour in zip(masks, colours, strict=True):
        pixels[mask & ~ndimage.binary_erosion(mask)] = ImageColor.getrgb(colour)
    return Image.fromarray(pixels)


def paint(values: npt.NDArray[np.float64]) -> Image.Image:
    """Return values [H, W] in 0 to 1 as a picture in the colours of COLOUR_SCALE."""
    scale = np.array([ImageColor.getrgb(colour) for colour in COLOUR_SCALE], np.float64)
    ends = np.linspace(0, 1, len(scale))
    channels = [np.interp(values, ends, scale[:, channel]) for channel in range(3)]
    return Image.fromarray(np.stack(channels, -1).round().astype(np.uint8))
