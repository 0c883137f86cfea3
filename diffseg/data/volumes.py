"""NIfTI volumes: their grid, read from the header and checked before memory is spent, and their intensities.

A volume has the shape [X, Y, Z], or [X, Y, Z, C] with channels; a 2-D image has Z = 1. A mask is turned to the orientation
of its volume by the affines of both. It is refused if it lies on another grid.
"""

import gzip
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffseg.data.opening import cached, data_errors, open_file
from diffseg.errors import DataError

HEADER = 540  # bytes of a NIfTI-2 header; a NIfTI-1 header has 348
INFLATION = 1032  # bytes at most that one byte of gzip expands to
CHUNK = 2**20  # bytes read at once
EQUAL = 1e-3  # relative difference below which two spacings are equal
TOLERANCE = 0.05  # voxels by which the corners of equal grids may differ


@dataclass(frozen=True)
class Header:
    """What a volume's header says; `read_header` has checked it."""

    path: Path
    grid: tuple[int, int, int]
    channels: int
    dtype: np.dtype  # as stored
    scaled: bool  # whether stored numbers are multiplied or shifted to become intensities
    affine: np.ndarray | None  # float64 [4, 4], voxels to mm; None if the file has none
    spacing: tuple[float, float, float]  # mm, along the axes of the grid
    nifti: Any  # nibabel's header

    @property
    def dimensions(self) -> tuple[int, ...]:
        """The shape as stored, without channels."""
        return self.nifti.get_data_shape()[:3]

    def slice_axis(self, wanted: int | None = None) -> int:
        """Return the axis across slices: `wanted`, or the only axis of one voxel, or the axis of the largest spacing.

        Among equal spacings the last axis is taken.
        """
        if wanted is not None:
            return wanted
        single = [axis for axis, length in enumerate(self.grid) if length == 1]
        if len(single) == 1:
            return single[0]
        return max(axis for axis in range(3) if self.spacing[axis] >= max(self.spacing) * (1 - EQUAL))


def read_header(path: Path) -> Header:
    """Read and check the header of a volume, without decoding the volume. Raises DataError."""
    import nibabel
    from nibabel.spatialimages import HeaderDataError

    with open_file(path) as file, data_errors(path):
        file_size = file.seek(0, 2)
        file.seek(0)
        packed = path.name.lower().endswith(".gz")
        try:
            block = gzip.GzipFile(fileobj=file).read(HEADER) if packed else file.read(HEADER)
        except (gzip.BadGzipFile, EOFError) as error:
            raise _not_nifti(path, str(error)) from None
        sizes = {int.from_bytes(block[:4], order): order for order in ("little", "big")}
        kind = nibabel.Nifti1Header if 348 in sizes else nibabel.Nifti2Header if 540 in sizes else None
        if kind is None or len(block) < kind.sizeof_hdr:
            raise _not_nifti(path, "it is empty" if not block else "its first bytes are not those of a header")
        found = kind(block[: kind.sizeof_hdr], check=False)
        if not bytes(found["magic"]).startswith(b"n+"):
            raise _not_nifti(path, "a single file with header and numbers is expected")
        try:
            shape, dtype = tuple(map(int, found.get_data_shape())), found.get_data_dtype()
            slope = found.get_slope_inter()
        except (HeaderDataError, KeyError) as error:
            raise _not_nifti(path, f"its header says {error}") from None
    grid, channels = _grid(path, shape)
    if dtype.fields:
        grid, channels = (grid, 3) if channels == 1 else (None, 0)  # RGB, or RGBA without its alpha
    if grid is None or dtype.kind not in "iufV":
        raise DataError(f"{path} has numbers of the kind {found['datatype']}: save it with whole or real numbers")
    _check_length(path, shape, dtype, int(found["vox_offset"]), file_size * (INFLATION if packed else 1))
    affine, spacing = _geometry(path, found, grid)
    return Header(path, grid, channels, dtype, slope not in ((None, None), (1, 0)), affine, spacing, found)


def read_intensities(path: Path) -> np.ndarray:
    """Decode a volume's intensities in its own units: [X, Y, Z] or [X, Y, Z, C]. Raises DataError."""
    from nibabel.volumeutils import apply_read_scaling
    from numpy.lib.recfunctions import structured_to_unstructured

    head = read_header(path)
    shape = head.nifti.get_data_shape()
    start, count = int(head.nifti["vox_offset"]), int(np.prod(shape, dtype=object))
    end = start + count * head.dtype.itemsize
    with open_file(path) as file, data_errors(path):
        stream = gzip.GzipFile(fileobj=file) if path.name.lower().endswith(".gz") else file
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
    from nibabel.orientations import apply_orientation

    turn = find_orientation(read_header(path), read_header(like))
    found = read_intensities(path)
    return found if turn is None else apply_orientation(found, turn)


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
    return found.astype(np.int32)


def _grid(path: Path, shape: tuple[int, ...]) -> tuple[tuple[int, int, int], int]:
    """Split a stored shape into three dimensions and the number of channels. Raises DataError."""
    if len(shape) not in (2, 3, 4) or min(shape) < 1:
        raise DataError(
            f"{path} has the shape {_times(shape)}: a volume has three dimensions, or four with channels, and an image two"
        )
    return (*shape[:3], 1)[:3], shape[3] if len(shape) == 4 else 1


def _check_length(path: Path, shape: tuple[int, ...], dtype: np.dtype, start: int, available: int) -> None:
    """Raise DataError if an array that begins at byte `start` needs more than the available bytes."""
    wanted = start + int(np.prod(shape, dtype=object)) * dtype.itemsize
    if start < 0 or wanted > available:
        raise DataError(
            f"{path} has the shape {_times(shape)}, which needs {wanted:,} bytes, but the file holds {available:,} at most: "
            "it is truncated or damaged, copy it anew"
        )


def _geometry(
    path: Path, found: Any, grid: tuple[int, int, int]
) -> tuple[np.ndarray | None, tuple[float, float, float]]:
    """Return the affine, None if the file has none, and the spacing. Raises DataError for values that no scanner writes."""
    from nibabel.affines import voxel_sizes
    from nibabel.spatialimages import HeaderDataError

    spans = np.array(grid) > 1
    sizes = found["pixdim"][1:4].astype(float)
    if not (np.isfinite(sizes[spans]) & (sizes[spans] > 0)).all():
        raise DataError(f"{path} has voxels of {_times(sizes)} mm: they must be finite and above 0, so save it anew")
    if not (found["sform_code"] > 0 or found["qform_code"] > 0):
        return None, tuple(np.where(spans | (np.isfinite(sizes) & (sizes > 0)), sizes, 0.0).tolist())
    try:
        affine = found.get_sform() if found["sform_code"] > 0 else found.get_qform()
    except (HeaderDataError, ValueError, np.linalg.LinAlgError) as error:
        raise DataError(f"{path} has no orientation that can be ({error}): save it anew") from None
    affine = np.array(affine, float)
    for axis in np.flatnonzero(~spans & ~affine[:3, :3].any(0)):  # a 2-D image's third, which has no length
        others = np.delete(affine[:3, :3], axis, 1)
        across = np.cross(*others.T)
        affine[:3, axis] = across / (np.linalg.norm(across) or 1)
    if not np.isfinite(affine).all() or np.linalg.matrix_rank(affine[:3, :3]) < 3:
        raise DataError(f"{path} has an affine that is no place in space: it is not finite or flat, so save it anew")
    return affine, tuple(voxel_sizes(affine).tolist())


def _other_grid(mask: Header, image: Header) -> DataError:
    """Return the error for different grids, with what differs: the shape, or else spacing, origin or directions."""
    start = f"{mask.path} is {_times(mask.grid)}, but its volume {image.path} is {_times(image.grid)}"
    if mask.affine is not None and image.affine is not None and sorted(mask.grid) == sorted(image.grid):
        if not np.allclose(sorted(mask.spacing), sorted(image.spacing), rtol=EQUAL):
            what = "voxels of {} mm", _times(mask.spacing), _times(image.spacing)
        elif not np.allclose(*(np.sort(np.abs(one.affine[:3, :3]), None) for one in (mask, image)), atol=EQUAL):
            what = "the directions {}", *(np.round(one.affine[:3, :3], 3).tolist() for one in (mask, image))
        else:
            what = "the origin {}", *(np.round(one.affine[:3, 3], 3).tolist() for one in (mask, image))
        text, *values = what
        start = f"{mask.path} has {text.format(values[0])}, but its volume {image.path} has {text.format(values[1])}"
    return DataError(f"{start}: they must lie on one grid, so resample the first to the second")


def _times(values: Iterable[float]) -> str:
    """Write numbers as "240 × 240 × 155"."""
    return " × ".join(f"{value:g}" for value in values)


def _not_nifti(path: Path, why: str) -> DataError:
    """Return the error for a file that is no NIfTI volume."""
    return DataError(f"{path} is not a NIfTI volume ({why}): copy it anew, or remove it")
