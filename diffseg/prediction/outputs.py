"""Outputs of a prediction: the maps of an image as PNG files, and those of a volume as NIfTI files."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diffseg.data import nifti
from diffseg.data.records import Record
from diffseg.prediction.merging import Prediction

Map = np.ndarray[Any, np.dtype[Any]]
Maps = dict[str, Map]  # by the end of the file's name: bool [H, W] for masks, float32 [H, W] for maps


def make_maps(prediction: Prediction, threshold: float) -> Maps:
    """Return the maps of a prediction: mask, mean, sd, and a sample-k for each member k."""
    mean = prediction.mean[0]
    maps = {"mask": mean > threshold, "mean": mean, "sd": prediction.sd[0]}
    maps |= {f"sample-{k}": mask for k, mask in enumerate(prediction.masks[:, 0])}
    return {kind: pixels.cpu().numpy() for kind, pixels in maps.items()}


def write_pictures(output: Path, name: str, maps: Maps) -> list[Path]:
    """Write the maps of a picture and return the files."""
    written = []
    for kind, pixels in maps.items():
        grays = pixels * (510.0 if kind == "sd" else 255.0)
        written.append(output / f"{name}_{kind}.png")
        Image.fromarray(grays.round().astype(np.uint8)).save(written[-1])
    return written


class VolumeMaps:
    """The maps of a volume, assembled from those of its slices. Voxels outside the slices stay 0."""

    def __init__(self, path: Path):
        """Take the geometry of the volume that is predicted."""
        self.header = nifti.read_header(path)
        self.maps: Maps = {}

    def add(self, record: Record, maps: Maps) -> None:
        """Insert the maps of one slice."""
        assert record.axis is not None  # the record of a slice
        inside = slice(record.margin, -record.margin or None)
        for kind, pixels in maps.items():
            dtype = np.uint8 if pixels.dtype == bool else np.float32
            whole = self.maps.setdefault(kind, np.zeros(self.header.grid, dtype))
            np.moveaxis(whole, record.axis, 2)[inside, inside, record.index] = pixels

    def write(self, output: Path, name: str) -> list[Path]:
        """Write all maps with the volume's geometry and return the files."""
        import nibabel

        written = []
        for kind, numbers in self.maps.items():
            header = self.header.nifti.copy()
            header.set_data_dtype(numbers.dtype)
            header["cal_min"] = header["cal_max"] = 0  # the display window of the image does not fit the maps
            kind_of = nibabel.Nifti2Image if isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti1Image
            data = numbers.reshape(self.header.dimensions)
            image = kind_of(data, header.get_best_affine(), header)  # type: ignore[no-untyped-call]  # nibabel has few types
            written.append(output / f"{name}_{kind}.nii.gz")
            nibabel.save(image, written[-1])
        return written
