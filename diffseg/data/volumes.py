"""The intensities and labels of NIfTI volumes.

A mask is turned to the orientation of its volume by the affines of both. It is refused if it lies on another grid.
"""

import gzip
import itertools
from pathlib import Path
from typing import Any

import numpy as np

from diffseg.data.nifti import EQUAL, Header, is_packed, read_header, times
from diffseg.data.opening import cached, data_errors, open_file
from diffseg.errors import DataError

CHUNK = 2**20  # bytes read at once
TOLERANCE = 0.05  # voxels by which the corners of equal grids may differ


def read_intensities(path: Path) -> np.ndarray:
    """Decode a volume's intensities in its own units: [X, Y, Z] or [X, Y, Z, C]. Raises DataError."""
    from nibabel.volumeutils import apply_read_scaling
    from numpy.lib.recfunctions import structured_to_unstructured

    head = read_header(path)
    shape = head.nifti.get_data_shape()
    start, count = int(head.nifti["vox_offset"]), int(np.prod(shape, dtype=object))
    end = start + count * head.dtype.itemsize
    with open_file(path) as file, data_errors(path):
        stream = gzip.GzipFile(fileobj=file) if is_packed(path) else file
        content = stream.read(end)
        if len(content) < end:
            raise ValueError(f"it ends after {len(content):,} of {end:,} bytes")
        while stream.read(CHUNK):  # to the end, where gzip compares its checksum
            pass
        found = np.frombuffer(content, head.dtype, count, start).reshape(shape, order="F")
        if head.dtype.fields:
            found = structured_to_unstructured(found)
            if found.shape[-1] == 4 and found[..., 3].min() < 255:
                raise DataError(f"{path} has an alpha channel that is not opaque everywhere: save it without")
            found = found[..., :3]
        elif head.scaled:
            found = apply_read_scaling(found, *head.nifti.get_slope_inter())
    return found.reshape(*head.grid, head.channels) if head.channels > 1 else found.reshape(head.grid)


def read_intensities_like(path: Path, like: Path) -> np.ndarray:
    """Decode a volume's intensities in the orientation of the volume `like`. Raises DataError if their grids differ."""
    turn = find_orientation(read_header(path), read_header(like))
    return apply_turn(read_intensities(path), turn)


def apply_turn(volume: np.ndarray, turn: np.ndarray | None) -> np.ndarray:
    """Turn a volume [X, Y, Z, …] as `find_orientation` says."""
    import nibabel.orientations

    if turn is None:
        return volume
    apply: Any = nibabel.orientations.apply_orientation
    return np.asarray(apply(volume, turn))


def find_orientation(mask: Header, image: Header) -> np.ndarray | None:
    """Return how to turn the mask's axes to the image's, as a nibabel orientation; None if they agree already.

    If either has no affine, only the shapes are compared. Raises DataError if the grids differ.
    """
    if mask.affine is None or image.affine is None:
        if mask.grid != image.grid:
            raise _other_grid(mask, image)
        return None
    to_image = np.linalg.inv(image.affine) @ mask.affine  # voxels of the mask to voxels of the image
    axes = np.abs(to_image[:3, :3]).argmax(0)  # of the image, by axis of the mask
    if sorted(axes) != [0, 1, 2] or [image.grid[axis] for axis in axes] != list(mask.grid):
        raise _other_grid(mask, image)
    signs = np.sign(to_image[axes, range(3)])
    for corner in itertools.product((0, 1), repeat=3):
        place = np.array(corner) * (np.array(mask.grid) - 1)
        wanted = np.empty(3)
        wanted[axes] = np.where(signs > 0, place, np.array(mask.grid) - 1 - place)
        if np.abs(to_image[:3, :3] @ place + to_image[:3, 3] - wanted).max() > TOLERANCE:
            raise _other_grid(mask, image)
    if (axes == range(3)).all() and (signs > 0).all():
        return None
    return np.stack([axes, signs], 1)


@cached
def read_labels(path: Path, like: Path) -> np.ndarray:
    """Decode the labels of a segmentation, int32 [X, Y, Z], in the orientation of its volume `like`. Raises DataError."""
    found = read_intensities_like(path, like)
    if found.ndim != 3 or not (np.isfinite(found).all() and (found == np.rint(found)).all()):
        raise DataError(f"{path} is no segmentation: it has three dimensions and whole numbers for labels")
    lowest, highest = found.min(), found.max()
    if lowest < 0 or highest >= 2**31:
        raise DataError(
            f"{path} has the label {lowest if lowest < 0 else highest:.0f}: labels are whole numbers from 0 to 2147483647"
        )
    return found.astype(np.int32)


def _other_grid(mask: Header, image: Header) -> DataError:
    """Return the error for different grids, with what differs: the shape, or else spacing, origin or directions."""
    first, second = f"is {times(mask.grid)}", f"is {times(image.grid)}"
    if mask.affine is not None and image.affine is not None and sorted(mask.grid) == sorted(image.grid):
        axes, origins = zip(*((one[:3, :3], one[:3, 3]) for one in (mask.affine, image.affine)), strict=True)
        lengths = [np.sort(np.abs(matrix), None) for matrix in axes]
        if not np.allclose(sorted(mask.spacing), sorted(image.spacing), rtol=EQUAL):
            first, second = (f"has voxels of {times(one.spacing)} mm" for one in (mask, image))
        elif not np.allclose(lengths[0], lengths[1], atol=EQUAL):
            first, second = (f"has the directions {np.round(matrix, 3).tolist()}" for matrix in axes)
        else:
            first, second = (f"has the origin {np.round(origin, 3).tolist()}" for origin in origins)
    return DataError(
        f"{mask.path} {first}, but its volume {image.path} {second}: they must lie on one grid, so resample the first to the "
        "second"
    )
