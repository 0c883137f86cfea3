"""Headers of NIfTI volumes, read and checked before memory is spent.

A volume has the shape [X, Y, Z], or [X, Y, Z, C] with channels; a 2-D image has Z = 1.
"""

import gzip
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from diffseg.data.opening import data_errors, open_file, unreadable
from diffseg.errors import DataError

HEADER = 540  # bytes of a NIfTI-2 header; a NIfTI-1 header has 348
INFLATION = 1032  # bytes at most that one byte of gzip expands to
UNITS = {1: 1000.0, 2: 1.0, 3: 0.001}  # mm of a header's unit of length, by its code: metre, mm, µm
EQUAL = 1e-3  # relative difference below which two spacings are equal
BYTE_ORDERS: tuple[Literal["little", "big"], ...] = ("little", "big")

Grid = tuple[int, int, int]  # voxels along the three axes
Spacing = tuple[float, float, float]  # mm along the three axes


@dataclass(frozen=True)
class Header:
    """What a volume's header says; `read_header` has checked it."""

    path: Path
    grid: Grid
    channels: int
    dtype: np.dtype  # as stored
    scaled: bool  # whether stored numbers are multiplied or shifted to become intensities
    affine: np.ndarray | None  # float64 [4, 4], voxels to mm; None if the file has none
    spacing: Spacing  # mm, along the axes of the grid
    nifti: Any  # nibabel's header

    @property
    def dimensions(self) -> tuple[int, ...]:
        """The shape as stored, without channels."""
        shape: tuple[int, ...] = self.nifti.get_data_shape()
        return shape[:3]

    def slice_spacing(self, axis: int) -> tuple[float, float] | None:
        """Return the mm between the rows and between the columns of slices across an axis; None if unknown."""
        unit = UNITS.get(int(self.nifti["xyzt_units"]) & 7, 1.0)  # an unknown unit is taken for mm, as by all readers
        rows, columns = (unit * spacing for own, spacing in enumerate(self.spacing) if own != axis)
        return (rows, columns) if rows > 0 and columns > 0 else None

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
    try:
        state = path.stat()
    except OSError as error:
        raise unreadable(path, error) from None
    return _read_header(path, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)


@lru_cache(maxsize=256)  # all slices of a volume ask for its header, one after the other
def _read_header(path: Path, *state: int) -> Header:
    """Read and check the header of a volume in the given state."""
    with open_file(path) as file, data_errors(path):
        file_size = file.seek(0, 2)
        file.seek(0)
        packed = is_packed(path)
        try:
            block = gzip.GzipFile(fileobj=file).read(HEADER) if packed else file.read(HEADER)
        except (gzip.BadGzipFile, EOFError) as error:
            raise _not_nifti(path, str(error)) from None
        found, shape, dtype, scaled = _parse(path, block)
    if len(shape) not in (2, 3, 4) or min(shape) < 1:
        raise DataError(
            f"{path} has the shape {times(shape)}: a volume has three dimensions, or four with channels, and an image two"
        )
    grid, channels = (shape[0], shape[1], 1 if len(shape) == 2 else shape[2]), shape[3] if len(shape) == 4 else 1
    if dtype.kind not in "iufV" or (dtype.fields and channels > 1):
        raise DataError(f"{path} has numbers of the kind {found['datatype']}: save it with whole or real numbers")
    _check_length(path, shape, dtype, int(found["vox_offset"]), file_size * (INFLATION if packed else 1))
    affine, spacing = _read_geometry(path, found, grid)
    channels = 3 if dtype.fields else channels  # RGB, or RGBA without its alpha
    return Header(path, grid, channels, dtype, scaled, affine, spacing, found)


def is_packed(path: Path) -> bool:
    """Return whether a file is compressed by gzip, as its name says."""
    return path.name.lower().endswith(".gz")


def times(values: Iterable[float]) -> str:
    """Write numbers as "240 × 240 × 155"."""
    return " × ".join(f"{value:g}" for value in values)


def _parse(path: Path, block: bytes) -> tuple[Any, tuple[int, ...], np.dtype, bool]:
    """Parse the first bytes of a file: nibabel's header, the stored shape and type, and whether numbers are scaled."""
    import nibabel
    from nibabel.spatialimages import HeaderDataError

    sizes = {int.from_bytes(block[:4], order) for order in BYTE_ORDERS}
    kind: Any = nibabel.Nifti1Header if 348 in sizes else nibabel.Nifti2Header if 540 in sizes else None
    if kind is None or len(block) < kind.sizeof_hdr:
        raise _not_nifti(path, "it is empty" if not block else "its first bytes are not those of a header")
    found = kind(block[: kind.sizeof_hdr], check=False)
    if not bytes(found["magic"]).startswith(b"n+"):
        raise _not_nifti(path, "a single file with header and numbers is expected")
    try:
        shape, dtype = tuple(map(int, found.get_data_shape())), found.get_data_dtype()
        scaled = found.get_slope_inter() not in ((None, None), (1, 0))
    except (HeaderDataError, KeyError) as error:
        raise _not_nifti(path, f"its header says {error}") from None
    return found, shape, dtype, scaled


def _check_length(path: Path, shape: tuple[int, ...], dtype: np.dtype, start: int, available: int) -> None:
    """Raise DataError if an array that begins at byte `start` needs more than the available bytes."""
    wanted = start + int(np.prod(shape, dtype=object)) * dtype.itemsize
    if start < 0 or wanted > available:
        raise DataError(
            f"{path} has the shape {times(shape)}, which needs {wanted:,} bytes, but the file holds {available:,} at most: "
            "it is truncated or damaged, copy it anew"
        )


def _read_geometry(path: Path, found: Any, grid: Grid) -> tuple[np.ndarray | None, Spacing]:
    """Return the affine, None if the file has none, and the spacing. Raises DataError for values that no scanner writes."""
    from nibabel.affines import voxel_sizes

    spans = np.array(grid) > 1
    sizes = found["pixdim"][1:4].astype(float)
    if not (np.isfinite(sizes[spans]) & (sizes[spans] > 0)).all():
        raise DataError(f"{path} has voxels of {times(sizes)} mm: they must be finite and above 0, so save it anew")
    if not (found["sform_code"] > 0 or found["qform_code"] > 0):
        return None, _spacing(np.where(spans | (np.isfinite(sizes) & (sizes > 0)), sizes, 0.0))
    affine = _read_affine(path, found, spans)
    measure: Any = voxel_sizes
    return affine, _spacing(measure(affine))


def _read_affine(path: Path, found: Any, spans: np.ndarray) -> np.ndarray:
    """Return the affine, float64 [4, 4]. spans [3]: the axes of more than one voxel. Raises DataError."""
    from nibabel.spatialimages import HeaderDataError

    try:
        affine = np.array(found.get_sform() if found["sform_code"] > 0 else found.get_qform(), float)
    except (HeaderDataError, ValueError, np.linalg.LinAlgError) as error:
        raise DataError(f"{path} has no orientation that can be ({error}): save it anew") from None
    for axis in np.flatnonzero(~spans & ~affine[:3, :3].any(0)):  # a 2-D image's third axis, which has no length
        others = np.delete(affine[:3, :3], axis, 1)
        across = np.cross(*others.T)
        affine[:3, axis] = across / (np.linalg.norm(across) or 1)
    if not np.isfinite(affine).all() or np.linalg.matrix_rank(affine[:3, :3]) < 3:
        raise DataError(f"{path} has an affine that is no place in space: it is not finite or flat, so save it anew")
    return affine


def _spacing(values: np.ndarray) -> Spacing:
    """Return three numbers as floats."""
    x, y, z = map(float, values)
    return x, y, z


def _not_nifti(path: Path, why: str) -> DataError:
    """Return the error for a file that is no NIfTI volume."""
    return DataError(f"{path} is not a NIfTI volume ({why}): copy it anew, or remove it")
