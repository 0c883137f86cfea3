"""BRATS2020 (Menze et al., 2015): MRI volumes of brain tumours, cut into axial slices as EnsemDiff takes them.

A slice is an image of four channels (T1, T1ce, T2, FLAIR) and a mask of the whole tumour. Published preparation (Wolleb et
al., 2022): the lowest 80 and the uppermost 26 of 155 slices are dropped, 8 px are cut off every side of 240, and
intensities are cut at the volume's top and bottom percentile; here they are then scaled to 0 … 255 per modality.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from diffseg.data.records import Found, Record, drawn_for_testing
from diffseg.errors import DataError

MODALITIES = ("t1", "t1ce", "t2", "flair")
LABELS = (0, 1, 2, 4)  # background, necrosis, oedema, enhancing tumour
DROPPED = (80, 26)  # slices, at the lower and the upper end
MARGIN = 8  # px, on every side
PERCENTILES = (1, 99)


@dataclass(frozen=True)
class Slice(Record):
    """One axial slice of a volume; `image` is the folder of its files."""

    index: int = 0

    @property
    def files(self) -> tuple[Path, ...]:
        return (*(_file(self.image, kind) for kind in MODALITIES), *self.annotations)

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """(image uint8 [H, W, 4], mask bool [1, H, W])."""
        images, mask = _volume(self.image)
        return images[:, :, self.index], mask[None, :, :, self.index]


def find(root: Path) -> Found:
    """`PATIENT/PATIENT_{t1,t1ce,t2,flair,seg}.nii.gz` (or .nii); a fifth of the patients, drawn by name, is for testing."""
    folders = sorted(path for path in root.iterdir() if path.is_dir() and any(path.glob("*.nii*")))
    if not folders:
        raise DataError(
            f"{root} has no folder with NIfTI files: BRATS is expected as PATIENT/PATIENT_t1.nii.gz and so on"
        )
    records, problems = [], []
    for folder in folders:
        missing = [kind for kind in (*MODALITIES, "seg") if not _file(folder, kind).is_file()]
        if missing:
            problems.append(f"{folder} has no {', '.join(missing)}: add the files, or remove the folder")
            continue
        try:
            depth = _header(_file(folder, "seg")).shape[-1]
        except DataError as error:
            problems.append(str(error))
            continue
        split = "test" if drawn_for_testing(folder.name) else "train"
        for index in range(DROPPED[0], depth - DROPPED[1]):
            name, annotations = f"{folder.name}/{index:03d}", (_file(folder, "seg"),)
            records.append(Slice(name, split, folder, annotations, None, folder.name, index))
    return Found(tuple(records), tuple(problems))


@lru_cache(maxsize=4)
def _volume(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """(uint8 [H, W, D, 4], bool [H, W, D]) of a patient, cropped. Raises DataError."""
    seg = _pixels(_file(folder, "seg"))
    labels = set(np.unique(seg).tolist())
    if not labels <= set(LABELS):
        unknown = ", ".join(f"{label:g}" for label in sorted(labels - set(LABELS)))
        raise DataError(f"{_file(folder, 'seg')} has the labels {unknown}: allowed are {', '.join(map(str, LABELS))}")
    channels = []
    for kind in MODALITIES:
        pixels = _pixels(_file(folder, kind))
        if pixels.shape != seg.shape:
            shapes = [" × ".join(map(str, shape)) for shape in (pixels.shape, seg.shape)]
            raise DataError(
                f"{_file(folder, kind)} is {shapes[0]}, but its segmentation is {shapes[1]}: they must agree"
            )
        low, high = np.percentile(pixels, PERCENTILES)
        scaled = (pixels.clip(low, high) - low) * (255 / max(high - low, 1e-6))
        channels.append(scaled.round().astype(np.uint8))
    inside = (slice(MARGIN, -MARGIN), slice(MARGIN, -MARGIN))
    return np.stack(channels, axis=-1)[inside], (seg > 0)[inside]


def _pixels(path: Path) -> np.ndarray:
    image = _header(path)
    try:
        return np.asarray(image.dataobj)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{path} cannot be decoded ({error}): it is truncated or damaged, copy it anew") from None


def _header(path: Path):
    import nibabel

    try:
        image = nibabel.load(path)
    except (OSError, EOFError, ValueError, nibabel.filebasedimages.ImageFileError) as error:
        raise DataError(f"{path} is not a NIfTI volume ({error}): copy it anew, or remove the folder") from None
    if len(image.shape) != 3:
        raise DataError(f"{path} has {len(image.shape)} dimensions: a volume has three")
    return image


def _file(folder: Path, kind: str) -> Path:
    packed = folder / f"{folder.name}_{kind}.nii.gz"
    return packed if packed.is_file() else folder / f"{folder.name}_{kind}.nii"
