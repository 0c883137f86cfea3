"""NIfTI volumes in many orientations and forms, as files."""

import gzip
import itertools
from pathlib import Path

import nibabel
import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff

from diffseg.errors import DataError

RNG = np.random.default_rng(0)
AFFINE = np.array([[-0.7, 0, 0, 11], [0, 0.7, 0, -5], [0, 0, 2.5, 3], [0, 0, 0, 1]])
ORIENTATIONS = [  # all 48, as nibabel has them: the axis and direction that each axis becomes
    np.stack([axes, signs], 1)
    for axes in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


def save(path: Path, numbers: np.ndarray, affine=AFFINE, **header) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(numbers, affine)
    for key, value in header.items():
        image.header[key] = value
    nibabel.save(image, path)
    return path


def turned(numbers: np.ndarray, affine: np.ndarray, orientation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the same volume in another orientation, and its affine."""
    return apply_orientation(numbers, orientation), affine @ inv_ornt_aff(orientation, numbers.shape[:3])


def edited(path: Path, **header) -> Path:
    """Set fields of a volume's header to values that nibabel would not write."""
    packed = path.name.endswith(".gz")
    content = bytearray(gzip.decompress(path.read_bytes()) if packed else path.read_bytes())
    found = nibabel.Nifti1Header(bytes(content[:348]), check=False)
    for key, value in header.items():
        found[key] = value
    content[:348] = found.binaryblock
    path.write_bytes(gzip.compress(content) if packed else content)
    return path


def sentence(read, path: Path) -> str:
    """Return the sentence with which a file is refused, or its path alone if it is read."""
    try:
        read()
    except DataError as error:
        return str(error)
    return str(path)
