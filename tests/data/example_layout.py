"""A new layout, as the manual shows it: `train/NAME.npz` and `test/NAME.npz` hold the arrays `image` and `mask`."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffseg.config import Data
from diffseg.data.listing import Listing, missing_folder
from diffseg.data.opening import Shape, data_errors, open_file
from diffseg.data.records import Record


@dataclass(frozen=True)
class Archive(Record):
    """A file that holds an image, uint8 [H, W] or [H, W, C], and its mask [H, W], 0 for background."""

    stores_labels = False  # the mask is what is not 0: its foreground need not be decided

    def read_shape(self) -> Shape:
        """Return the shape of the image."""
        image = self.read_image()
        return Shape(*image.shape, deep=False)

    def check_headers(self) -> Shape:
        """Return the shape of the image; an archive has no header."""
        return self.read_shape()

    def read_image(self, channels: int = 3, at_least: int | None = None) -> np.ndarray:
        """Decode the image: uint8 [H, W, C]."""
        image = _read_array(self.image, "image")
        return image[..., None] if image.ndim == 2 else image

    def read_mask(self, path: Path, size: tuple[int, int]) -> np.ndarray:
        """Decode the mask: bool [H, W]."""
        return _read_array(path, "mask") != 0


def find(root: Path, config: Data) -> Listing:
    """List the archives of both splits. Raises DataError if the root is not in this layout."""
    records = []
    for split in ("train", "test"):
        if not (root / split).is_dir():
            raise missing_folder(root, split, "train/NAME.npz and test/NAME.npz are expected")
        for path in sorted((root / split).glob("*.npz")):
            records.append(Archive(path.stem, split, image=path, annotations=(path,)))
    return Listing(tuple(records))


def _read_array(path: Path, name: str) -> np.ndarray:
    """Decode one array of an archive. Raises DataError."""
    with open_file(path) as file, data_errors(path):
        return np.load(file, allow_pickle=False)[name]
