"""Small example pictures of test images, kept in the ledger for the report."""

import io

import numpy as np
import torch
from PIL import Image

from diffseg.data.splits import Split
from diffseg.evaluation.images import TestImage
from diffseg.labels.classes import Classes
from diffseg.rows import Row

SIDE = 512  # px, at most


def draw_example(image: TestImage, test: Split) -> list[Row]:
    """Return PNG pictures of a test image: the image, and the true mask, mean and standard deviation of each class.

    A standard deviation of 0.5 is white. Rows of the ledger's table `examples`: image (its name), class, kind, png.
    """
    index, classes = image.prediction.index, Classes.of(image.config.data)
    pixels = test.display_image(index)
    pixels = pixels.permute(1, 2, 0).round() if len(pixels) == 3 else pixels.mean(0)
    pictures = [("all", "image", pixels)]
    raters = image.raters if image.valid is None else image.raters & image.valid
    for k, name in enumerate(classes.rows[1:] or classes.rows):
        pictures += [
            (name, "truth", raters[:, k].float().mean(0) * 255),
            (name, "mean", image.prediction.mean[k] * 255),
            (name, "sd", image.prediction.sd[k] * 2 * 255),
        ]
    return [
        {"image": test.names[index], "class": name, "kind": kind, "png": _encode(pixels)}
        for name, kind, pixels in pictures
    ]


def _encode(pixels: torch.Tensor) -> bytes:
    """Return pixels [H, W] or [H, W, 3] in 0 to 255 as a PNG file of at most SIDE × SIDE."""
    buffer, picture = io.BytesIO(), Image.fromarray(pixels.round().clamp(0, 255).cpu().numpy().astype(np.uint8))
    picture.thumbnail((SIDE, SIDE))
    picture.save(buffer, "PNG")
    return buffer.getvalue()
