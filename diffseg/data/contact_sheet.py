"""The contact sheet of `diffseg data check`: images of both splits with the contours of their masks and their names.

Contours have one colour a class, which a legend names; where there is one class, one colour a rater.
"""

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from diffseg.data.findings import SPLITS, ImageFindings
from diffseg.data.numbering import is_labelled
from diffseg.data.records import Record, Sample
from diffseg.labels.classes import IGNORED, Classes

SHOWN = {"train": 12, "test": 6}  # images of each split on the sheet
COLUMNS = 6
SIDE, GAP, LABEL = 200, 8, 14  # of a thumbnail, between thumbnails, and of a name's height, px
COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#f0e442", "#d55e00")  # of raters or classes (Okabe & Ito, 2008)
IGNORED_COLOUR = "#999999"


def choose_shown(records: Sequence[Record], split: str) -> list[Record]:
    """Return the records of a split that the sheet shows: at equal distances in the listing."""
    own = [record for record in records if record.split == split]
    places = np.linspace(0, len(own) - 1, min(SHOWN[split], len(own))).round().astype(int)
    return [own[place] for place in places]


def draw_thumbnail(sample: Sample, classes: Classes) -> Image.Image:
    """Draw the image, its longer side SIDE px, with the contours of its masks. Images of 16 bits are cut at 0.5 and 99.5 %."""
    from scipy.ndimage import binary_erosion

    height, width = sample.masks.shape[1:]
    scale = SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    pixels = sample.image.astype(np.float32)
    if sample.image.dtype != np.uint8:
        low, high = np.percentile(pixels, (0.5, 99.5))
        pixels = 255 * (pixels.clip(low, high) - low) / max(high - low, 1)
    pixels = pixels if pixels.shape[2] == 3 else pixels.mean(2, keepdims=True).repeat(3, 2)
    picture = np.array(Image.fromarray(pixels.astype(np.uint8)).resize(size, Image.Resampling.BOX))
    small = np.stack(
        [np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)) for mask in sample.masks]
    )
    for colour, mask in _list_contours(small, classes):
        picture[mask & ~binary_erosion(mask)] = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
    return Image.fromarray(picture)


def class_colours(count: int) -> list[str]:
    """Return colours of classes: those of Okabe and Ito, then hues at the golden angle."""
    hues = [colorsys.hls_to_rgb(k * 0.618 % 1, 0.5, 0.9) for k in range(count - len(COLOURS))]
    return [*COLOURS, *(f"#{round(255 * r):02x}{round(255 * g):02x}{round(255 * b):02x}" for r, g, b in hues)][:count]


def _list_contours(masks: np.ndarray, classes: Classes) -> list[tuple[str, np.ndarray]]:
    """Return the areas, bool [H, W], that contours are drawn around, and their colours. masks: numbers, uint8 [R, H, W]."""
    found = [(IGNORED_COLOUR, mask == IGNORED) for mask in masks if classes.ignored]
    if classes.count == 1:
        return found + [(COLOURS[k % len(COLOURS)], mask) for k, mask in enumerate(is_labelled(masks))]
    named = zip(class_colours(classes.count), classes.numbers, strict=True)
    return found + [(colour, np.isin(mask, numbers)) for colour, numbers in named for mask in masks]


def draw_sheet(images: Sequence[ImageFindings]) -> Image.Image | None:
    """Draw the images that have a thumbnail, COLUMNS in a row, the splits one below the other; None if there are none."""
    cells: list[tuple[ImageFindings, Image.Image, int, int]] = []
    height = GAP
    for split in SPLITS:
        shown = [(image, image.thumbnail) for image in images if image.thumbnail and image.record.split == split]
        for first in range(0, len(shown), COLUMNS):
            row = shown[first : first + COLUMNS]
            cells += [(*one, GAP + column * (SIDE + GAP), height) for column, one in enumerate(row)]
            height += SIDE + LABEL + GAP
    if not cells:
        return None
    width = GAP + min(COLUMNS, len(cells)) * (SIDE + GAP)
    legend = _place_legend(images[0].record.classes, width)
    canvas = Image.new("RGB", (width, height + (LABEL + GAP) * (1 + legend[-1][3] if legend else 0)), "white")
    draw = ImageDraw.Draw(canvas)
    for colour, name, left, line in legend:
        top = height + line * (LABEL + GAP)
        draw.rectangle((left, top, left + LABEL, top + LABEL - 2), fill=colour)
        draw.text((left + LABEL + 4, top), _shorten(name, draw), fill="black")
    for image, thumbnail, left, top in cells:
        canvas.paste(thumbnail, (left + (SIDE - thumbnail.width) // 2, top + (SIDE - thumbnail.height) // 2))
        draw.text((left, top + SIDE), _shorten(f"{image.record.split} {image.record.name}", draw), fill="black")
    return canvas


def _place_legend(classes: Classes, width: int) -> list[tuple[str, str, int, int]]:
    """Return (colour, name, left edge in px, row) of every class on a sheet of the given width; none for one class."""
    named = list(zip(class_colours(classes.count), classes.names, strict=True)) if classes.count > 1 else []
    if classes.ignored:
        named.append((IGNORED_COLOUR, "ignored"))
    columns = max(1, (width - GAP) // (SIDE + GAP))
    return [(*one, GAP + place % columns * (SIDE + GAP), place // columns) for place, one in enumerate(named)]


def _shorten(text: str, draw: ImageDraw.ImageDraw) -> str:
    """Return the text, cut to SIDE px with "…" at its end if it is longer."""
    while len(text) > 1 and draw.textlength(text) > SIDE:
        text = text.removesuffix("…")[:-1] + "…"
    return text
