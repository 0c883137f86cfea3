"""The contact sheet of `diffseg data check`: images of both splits with the contours of their masks and their names."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from diffseg.data.findings import SPLITS, ImageFindings
from diffseg.data.numbering import is_labelled
from diffseg.data.records import Record, Sample

SHOWN = {"train": 12, "test": 6}  # images of each split on the sheet
COLUMNS = 6
SIDE, GAP, LABEL = 200, 8, 14  # of a thumbnail, between thumbnails, and of a name's height, px
COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#f0e442", "#d55e00")  # of raters (Okabe & Ito, 2008)


def choose_shown(records: Sequence[Record], split: str) -> list[Record]:
    """Return the records of a split that the sheet shows: at equal distances in the listing."""
    own = [record for record in records if record.split == split]
    places = np.linspace(0, len(own) - 1, min(SHOWN[split], len(own))).round().astype(int)
    return [own[place] for place in places]


def draw_thumbnail(sample: Sample) -> Image.Image:
    """Draw the image, its longer side SIDE px, with every rater's contour. Images of 16 bits are cut at 0.5 and 99.5 %."""
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
    for rater, mask in enumerate(is_labelled(sample.masks)):
        small = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
        colour = COLOURS[rater % len(COLOURS)]
        picture[small & ~binary_erosion(small)] = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
    return Image.fromarray(picture)


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
    canvas = Image.new("RGB", (GAP + min(COLUMNS, len(cells)) * (SIDE + GAP), height), "white")
    draw = ImageDraw.Draw(canvas)
    for image, thumbnail, left, top in cells:
        canvas.paste(thumbnail, (left + (SIDE - thumbnail.width) // 2, top + (SIDE - thumbnail.height) // 2))
        draw.text((left, top + SIDE), _shorten(f"{image.record.split} {image.record.name}", draw), fill="black")
    return canvas


def _shorten(text: str, draw: ImageDraw.ImageDraw) -> str:
    """Return the text, cut to SIDE px with "…" at its end if it is longer."""
    while len(text) > 1 and draw.textlength(text) > SIDE:
        text = text.removesuffix("…")[:-1] + "…"
    return text
