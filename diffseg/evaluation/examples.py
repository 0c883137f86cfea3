"""Small example pictures of test images, kept in the ledger for the report."""

import io
from typing import Any

import numpy as np
import torch
from PIL import Image

from diffseg.data.splits import Split
from diffseg.prediction.merging import Prediction

SIDE = 512  # px, at most


def draw_example(prediction: Prediction, raters: torch.Tensor, test: Split) -> list[dict[str, Any]]:
    """Return PNG pictures of a test image: the image, its true mask, mean and standard deviation of the ensemble.

    A standard deviation of 0.5 is white. Rows of the ledger's table `examples`: image (its name), kind, png.
    """
    image = test.display_image(prediction.index)
    image = image.permute(1, 2, 0).round() if len(image) == 3 else image.mean(0)
    pictures = {
        "image": image,
        "truth": raters.float().mean(0) * 255,
        "mean": prediction.mean * 255,
        "sd": prediction.sd * 2 * 255,
    }
    return [
        {"image": test.names[prediction.index], "kind": kind, "png": _encode(pixels)}
        for kind, pixels in pictures.items()
    ]


def _encode(pixels: torch.Tensor) -> bytes:
    """Return pixels [H, W] or [H, W, 3] in 0 to 255 as a PNG file of at most SIDE × SIDE."""
    buffer, picture = io.BytesIO(), Image.fromarray(pixels.round().clamp(0, 255).cpu().numpy().astype(np.uint8))
    picture.thumbnail((SIDE, SIDE))
    picture.save(buffer, "PNG")
    return buffer.getvalue()
