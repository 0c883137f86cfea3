"""Outputs of a prediction: the maps of an image as PNG files, and those of a volume as NIfTI files."""

import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diffseg.config import Config
from diffseg.data import nifti
from diffseg.data.records import Record
from diffseg.labels.classes import Classes
from diffseg.labels.labels import Labels
from diffseg.prediction.mask_values import MaskValues, merge_classes
from diffseg.prediction.merging import Prediction

Map = np.ndarray[Any, np.dtype[Any]]
Maps = dict[
    str, Map
]  # by the end of the file's name: masks as numbers of labels, uint8 [H, W], and maps, float32 [H, W]


def make_maps(prediction: Prediction, config: Config) -> Maps:
    """Return the maps of a prediction: mask, mean and sd of each class, and a sample-k for each member k."""
    labels = Labels.of(config)
    ends = name_ends(labels.classes)
    masks = labels.decide(prediction.mean, config.inference.threshold)
    maps = {"mask": merge_classes(masks, labels.classes)}
    maps |= {f"mean{end}": mean for end, mean in zip(ends, prediction.mean, strict=True)}
    maps |= {f"sd{end}": sd for end, sd in zip(ends, prediction.sd, strict=True)}
    maps |= {f"sample-{k}": merge_classes(own, labels.classes) for k, own in enumerate(prediction.masks)}
    return {kind: pixels.cpu().numpy() for kind, pixels in maps.items()}


def name_ends(classes: Classes) -> list[str]:
    """Return what the maps of each class have at the end of their names: -CLASS, or nothing for a single class.

    Spaces become "-". Names that differ in nothing but that or in their case get numbers, since some file systems ignore case.
    """
    if classes.count == 1:
        return [""]
    ends: dict[str, str] = {}
    for name in classes.names:
        end = safe = re.sub(r"\s", "-", name)
        number = 1
        while end.casefold() in ends:
            number += 1
            end = f"{safe}-{number}"
        ends[end.casefold()] = f"-{end}"
    return list(ends.values())


def write_pictures(output: Path, name: str, maps: Maps, values: MaskValues) -> list[Path]:
    """Write the maps of a picture and return the files. Folders in its name are made."""
    (output / name).parent.mkdir(parents=True, exist_ok=True)
    written = []
    for kind, pixels in maps.items():
        written.append(output / f"{name}_{kind}.png")
        if pixels.dtype == np.uint8:
            values.draw(pixels).save(written[-1])
        else:
            grays = pixels * (510.0 if kind.startswith("sd") else 255.0)
            Image.fromarray(grays.round().astype(np.uint8)).save(written[-1])
    return written


class VolumeMaps:
    """The maps of a volume, assembled from those of its slices. Voxels outside the slices are background."""

    def __init__(self, path: Path, values: MaskValues):
        """Take the geometry of the volume that is predicted, and the values of its masks. Raises UserError."""
        self.header = nifti.read_header(path)
        self.values = values.volume
        self.maps: Maps = {}

    def add(self, record: Record, maps: Maps) -> None:
        """Insert the maps of one slice."""
        assert record.axis is not None  # the record of a slice
        inside = slice(record.margin, -record.margin or None)
        for kind, pixels in maps.items():
            if pixels.dtype == np.uint8:
                pixels = self.values[pixels]
                outside = self.values[0]
            else:
                outside = np.float32(0)
            if kind not in self.maps:
                self.maps[kind] = np.full(self.header.grid, outside)
            np.moveaxis(self.maps[kind], record.axis, 2)[inside, inside, record.index] = pixels

    def write(self, output: Path, name: str) -> list[Path]:
        """Write all maps with the volume's geometry and return the files. Folders in the volume's name are made."""
        import nibabel

        (output / name).parent.mkdir(parents=True, exist_ok=True)
        written = []
        for kind, numbers in self.maps.items():
            header = self.header.nifti.copy()
            header.set_data_dtype(numbers.dtype)
            header["cal_min"] = header["cal_max"] = 0  # neither the image's display window nor its intent fits the maps
            header.set_intent("none")
            kind_of = nibabel.Nifti2Image if isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti1Image
            data = numbers.reshape(self.header.dimensions)
            image = kind_of(data, header.get_best_affine(), header)  # type: ignore[no-untyped-call]  # nibabel has few types
            written.append(output / f"{name}_{kind}.nii.gz")
            nibabel.save(image, written[-1])
        return written
