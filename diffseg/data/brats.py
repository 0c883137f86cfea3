"""BRATS2020 (Menze et al., 2015): MRI volumes of brain tumours, cut into axial slices as EnsemDiff was published.

A slice is an image of four channels (T1, T1ce, T2, FLAIR) and a mask of the whole tumour, or of the classes that
`data.classes` makes of the labels 1 (necrosis), 2 (oedema) and 4 (enhancing tumour). The published preparation (Wolleb
et al., 2022) drops the lowest 80 and the uppermost 26 of 155 slices, cuts 8 px off every side of 240, and clips intensities
at the volume's top and bottom percentile. Here every modality is then scaled to 0 … 255.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from diffseg.config import Data
from diffseg.data import nifti, volumes
from diffseg.data.files import IGNORED_PREFIXES
from diffseg.data.listing import Listing
from diffseg.data.masks import MaskPixels
from diffseg.data.numbering import number_pixels
from diffseg.data.opening import Shape, cached
from diffseg.data.quantisation import mean_and_deviation
from diffseg.data.records import Record
from diffseg.errors import DataError
from diffseg.labels.classes import Classes

MODALITIES = ("t1", "t1ce", "t2", "flair")
LABELS = (0, 1, 2, 4)  # background, necrosis, oedema, enhancing tumour
DROPPED = (80, 26)  # slices, at the lower and the upper end
MARGIN = 8  # px, on every side
INSIDE = (slice(MARGIN, -MARGIN), slice(MARGIN, -MARGIN))
PERCENTILES = (1, 99)


@dataclass(frozen=True)
class Slice(Record):
    """One axial slice of a patient's volumes. `image` is the folder of the patient's files."""

    margin = MARGIN
    stores_labels = False
    holds_values = True

    @property
    def volume(self) -> Path:
        """The first modality; the others and the segmentation are turned to its orientation."""
        return _file(self.image, MODALITIES[0])

    @property
    def quantised_volume(self) -> None:
        """None: every volume is scaled by its own percentiles, as published."""
        return None

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of all modalities, and the segmentation."""
        return (*(_file(self.image, kind) for kind in MODALITIES), *self.annotations)

    def read_shape(self) -> Shape:
        """Read the shape of the cropped slice from the header. Raises DataError."""
        head = nifti.read_header(self.volume)
        height, width, _ = head.grid
        spacing = head.slice_spacing(self.axis)
        return Shape(height - 2 * MARGIN, width - 2 * MARGIN, len(MODALITIES), deep=False, spacing=spacing)

    def read_image(self, channels: int = 4, at_least: int | None = None) -> np.ndarray:
        """Decode the slice: uint8 [H, W, 4], cropped. Raises DataError."""
        pixels: np.ndarray = _channels(self.image)[:, :, self.index]
        return pixels

    def read_statistics(self, image: np.ndarray) -> np.ndarray:
        """Return float64 [2, 4]: mean and standard deviation of the patient's pixels."""
        return _statistics(self.image)

    def read_mask(self, path: Path, size: tuple[int, int]) -> np.ndarray:
        """Decode the mask of the named classes or else of the whole tumour: uint8 [H, W], cropped. Raises DataError."""
        mask: np.ndarray = _tumour(path, self.classes)[:, :, self.index]
        return mask


def find(root: Path, config: Data) -> Listing:
    """List the slices of `PATIENT/PATIENT_{t1,t1ce,t2,flair,seg}.nii.gz` (or .nii); their split is to be drawn by patients."""
    folders = _list_patients(root)
    if not folders:
        raise DataError(
            f"{root} has no folder with NIfTI files: BRATS is expected as PATIENT/PATIENT_t1.nii.gz and so on"
        )
    records, problems = [], []
    for folder in folders:
        try:
            slices = _list_slices(folder, None)
        except DataError as error:
            problems.append(str(error))
            continue
        seg = _file(folder, "seg")
        if not seg.is_file():
            problems.append(f"{folder} has no seg: add the file, or remove the folder")
            continue
        records += [replace(record, annotations=(seg,)) for record in slices]
    return Listing(tuple(records), tuple(problems))


def list_new(folders: list[Path], config: Data) -> list[list[Record]]:
    """List the slices of new patients, who need no segmentation, given their folders or a folder of these. Raises DataError."""
    patients = [own for folder in folders for own in (_list_patients(folder) if folder.is_dir() else []) or [folder]]
    return [[*_list_slices(folder, "test")] for folder in patients]


def _list_patients(root: Path) -> list[Path]:
    """Return the folders below the root that hold volumes."""
    return sorted(path for path in root.iterdir() if path.is_dir() and _has_volumes(path))


def _list_slices(folder: Path, split: str | None) -> list[Slice]:
    """List the slices of a patient that are used, without masks. Raises DataError."""
    if missing := [kind for kind in MODALITIES if not _file(folder, kind).is_file()]:
        raise DataError(f"{folder} has no {', '.join(missing)}: add the files, or remove the folder")
    height, width, depth = nifti.read_header(_file(folder, MODALITIES[0])).grid
    if min(height, width) <= 2 * MARGIN or depth <= sum(DROPPED):
        raise DataError(
            f"{folder} has volumes of {height} × {width} × {depth}: after cropping nothing of them would be left"
        )
    return [
        Slice(f"{folder.name}/{index:03d}", split, folder, (), folder.name, index)
        for index in range(DROPPED[0], depth - DROPPED[1])
    ]


@cached
def _channels(folder: Path) -> np.ndarray:
    """Decode the modalities of a patient: uint8 [H, W, D, 4], cropped. Raises DataError."""
    channels = []
    for kind in MODALITIES:
        path = _file(folder, kind)
        numbers = volumes.read_intensities_like(path, _file(folder, MODALITIES[0]))
        low, high = np.percentile(numbers, PERCENTILES)
        if not np.isfinite(high - low):
            raise DataError(f"{path} has values that are not finite: copy it anew, or remove the folder")
        scaled = (numbers[INSIDE].clip(low, high) - low) * (255 / max(high - low, 1e-6))
        channels.append(scaled.round().astype(np.uint8))
    return np.stack(channels, axis=-1)


@cached
def _statistics(folder: Path) -> np.ndarray:
    """Return float64 [2, 4]: mean and standard deviation of a patient's pixels."""
    return mean_and_deviation(_channels(folder))


@cached
def _tumour(path: Path, classes: Classes) -> np.ndarray:
    """Decode the classes of a segmentation: uint8 [H, W, D], cropped. Without names there is one, of all labels.

    Raises DataError for other labels than LABELS, and for one that no class lists.
    """
    seg = volumes.read_intensities_like(path, _file(path.parent, MODALITIES[0]))
    labels = set(np.unique(seg).tolist())
    if not labels <= set(LABELS):
        unknown = ", ".join(f"{label:g}" for label in sorted(labels - set(LABELS)))
        raise DataError(f"{path} has the labels {unknown}: allowed are {', '.join(map(str, LABELS))}")
    pixels = seg[INSIDE].astype(np.int32)
    numbers = number_pixels(path, MaskPixels(pixels.reshape(len(pixels), -1)), classes, "nonzero")
    return numbers.reshape(pixels.shape)


def _has_volumes(folder: Path) -> bool:
    """Return whether a folder holds NIfTI files and is neither hidden nor left by an archive."""
    return not folder.name.startswith(IGNORED_PREFIXES) and any(folder.glob("*.nii*"))


def _file(folder: Path, kind: str) -> Path:
    """Return the file of a modality or of the segmentation ("seg"), compressed if there is one."""
    packed = folder / f"{folder.name}_{kind}.nii.gz"
    return packed if packed.is_file() else folder / f"{folder.name}_{kind}.nii"
