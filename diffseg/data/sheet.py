"""A contact sheet: images of both splits with the contours of their masks and their names."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from diffseg.data.findings import SPLITS, Row
from diffseg.data.records import Record, Sample

SHOWN = {"train": 12, "test": 6}  # images on the contact sheet
COLUMNS, SIDE, GAP, LABEL = 6, 200, 8, 14  # of the sheet: images a row, and px
COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#f0e442", "#d55e00")  # of raters (Okabe & Ito, 2008)


def spread(records: Sequence[Record], split: str) -> list[Record]:
    """The images of a split that are shown: at equal distances in the listing."""
    own = [record for record in records if record.split == split]
    places = np.linspace(0, len(own) - 1, min(SHOWN[split], len(own))).round().astype(int)
    return [own[place] for place in places]


def thumbnail(sample: Sample) -> Image.Image:
    """The image, at most SIDE px, with every rater's contour."""
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
    for rater, mask in enumerate(sample.masks):
        small = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
        colour = COLOURS[rater % len(COLOURS)]
        picture[small & ~binary_erosion(small)] = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
    return Image.fromarray(picture)


def sheet(rows: Sequence[Row]) -> Image.Image | None:
    """The images that have a thumbnail, COLUMNS a row; None if there are none."""
    shown = {split: [row for row in rows if row.thumbnail and row.record.split == split] for split in SPLITS}
    cells: list[tuple[Row, int, int]] = []
    height = GAP
    for split in SPLITS:
        for first in range(0, len(shown[split]), COLUMNS):
            cells += [
                (row, GAP + k * (SIDE + GAP), height) for k, row in enumerate(shown[split][first : first + COLUMNS])
            ]
            height += SIDE + LABEL + GAP
    if not cells:
        return None
    canvas = Image.new("RGB", (GAP + min(COLUMNS, len(cells)) * (SIDE + GAP), height), "white")
    draw = ImageDraw.Draw(canvas)
    for row, left, top in cells:
        place = left + (SIDE - row.thumbnail.width) // 2, top + (SIDE - row.thumbnail.height) // 2
        canvas.paste(row.thumbnail, place)
        text = f"{row.record.split} {row.record.name}"
        while len(text) > 1 and draw.textlength(text) > SIDE:
            text = text.removesuffix("…")[:-1] + "…"
        draw.text((left, top + SIDE), text, fill="black")
    return canvas
