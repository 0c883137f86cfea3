"""Intensities of volumes as pixels of 8 or 16 bits, by one linear map for all volumes of a data set.

The map is the same whatever types the files have, so that equal intensities become equal pixels.
"""

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffseg.data import nifti, volumes
from diffseg.data.nifti import Header
from diffseg.data.opening import cached
from diffseg.errors import DataError

log = logging.getLogger(__name__)
SIGNED = 32768  # added to whole intensities that may be negative, such as Hounsfield units
OUTLIERS = (0.1, 99.9)  # percentiles of fractional intensities that become the least and the greatest pixel
UNALIKE = 20  # ratio of the spans of two volumes above which they seem to have different units
SAMPLED = 10_000  # intensities of each volume that the percentiles of a data set are taken from


@dataclass(frozen=True)
class Quantisation:
    """pixel = round((intensity − offset) · gain), clipped to 8 or 16 bits."""

    offset: float
    gain: float
    bits: int

    def __call__(self, numbers: np.ndarray) -> np.ndarray:
        """Map intensities [X, Y, Z, …] to uint8 or uint16 pixels."""
        dtype = np.dtype(np.uint8 if self.bits == 8 else np.uint16)
        if (self.offset, self.gain) == (0, 1) and numbers.dtype == dtype:
            return numbers
        pixels, top = np.empty(numbers.shape, dtype), 2**self.bits - 1
        for index in range(numbers.shape[2]):  # a slice at a time bounds the memory
            scaled = (numbers[:, :, index].astype(np.float64) - self.offset) * self.gain
            pixels[:, :, index] = scaled.round().clip(0, top)
        return pixels


NARROW, WIDE, SHIFTED = Quantisation(0.0, 1.0, 8), Quantisation(0.0, 1.0, 16), Quantisation(-float(SIGNED), 1.0, 16)


@dataclass(frozen=True)
class _Range:
    """The intensities of one volume, summarised."""

    low: float  # least
    high: float  # greatest
    whole: bool  # whether all are whole numbers
    sample: np.ndarray  # float64 [≤ SAMPLED], evenly spread over the volume


def fit_quantisation(paths: Sequence[Path]) -> Quantisation:
    """Fit the one map for all volumes of a data set. Raises DataError.

    Whole intensities keep their steps if they fit into 16 bits. Others are mapped between the percentiles OUTLIERS of all
    volumes. Every volume has the same weight. Volumes are decoded unless the types of their files suffice.
    """
    headers = [nifti.read_header(path) for path in paths]
    if found := _of_type(headers):
        return found
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # as many volumes in memory
        return _of_ranges(list(pool.map(lambda path: _range(_read_finite(path), SAMPLED), paths)))


def pixel_bits(path: Path, quantisation: Quantisation | None) -> int:
    """Return the bits of a volume's pixels, without decoding it. Raises DataError."""
    return (quantisation or _of_type([nifti.read_header(path)]) or WIDE).bits


@cached
def read_pixels(path: Path, quantisation: Quantisation | None) -> np.ndarray:
    """Like `decode_pixels`, and keep the result for the next slice."""
    return decode_pixels(path, quantisation)


def decode_pixels(path: Path, quantisation: Quantisation | None) -> np.ndarray:
    """Decode a volume to pixels, uint8 or uint16 [X, Y, Z] or [X, Y, Z, C]. None: fit the map to it. Raises DataError."""
    numbers = _read_finite(path)
    return (quantisation or _of_type([nifti.read_header(path)]) or _of_ranges([_range(numbers)]))(numbers)


@cached
def pixel_statistics(path: Path, quantisation: Quantisation | None) -> np.ndarray:
    """Return float64 [2, C]: mean and standard deviation of the pixels of a whole volume. Raises DataError."""
    found = read_pixels(path, quantisation)
    return mean_and_deviation(found if found.ndim == 4 else found[..., None])


def mean_and_deviation(pixels: np.ndarray) -> np.ndarray:
    """Return float64 [2, C] of uint8 or uint16 pixels [..., C], exactly. Counts of the levels avoid a copy in floats."""
    levels = np.arange(2 ** (8 * pixels.itemsize), dtype=np.float64)
    found = []
    for channel in np.moveaxis(pixels, -1, 0):
        shares = np.bincount(channel.ravel(), minlength=len(levels)) / channel.size
        mean = shares @ levels
        found.append((mean, np.sqrt(shares @ (levels - mean) ** 2)))
    return np.array(found).T


def _of_type(headers: Sequence[Header]) -> Quantisation | None:
    """Return the map that the files' types suffice for; None if their intensities have to be read."""
    kinds = {"scaled" if one.scaled else one.dtype.newbyteorder("=").name for one in headers if not one.dtype.fields}
    kinds |= {"uint8" for one in headers if one.dtype.fields}  # RGB
    if kinds == {"uint8"}:
        return NARROW
    if kinds <= {"uint8", "uint16"}:
        return WIDE
    if kinds <= {"uint8", "int8", "int16"}:
        return SHIFTED
    return None


def _range(numbers: np.ndarray, sampled: int | None = None) -> _Range:
    """Summarise intensities. sampled: how many to keep for percentiles; all if None."""
    flat = numbers.ravel(order="K")
    step = 1 if sampled is None else -(-len(flat) // sampled)
    return _Range(
        float(flat.min()), float(flat.max()), bool((flat == np.rint(flat)).all()), flat[::step].astype(np.float64)
    )


def _of_ranges(found: list[_Range]) -> Quantisation:
    """Fit the map to the intensities of all volumes; log a warning if they seem to have different units."""
    low, high = min(one.low for one in found), max(one.high for one in found)
    if all(one.whole for one in found):
        if low >= -SIGNED and high < SIGNED:
            return SHIFTED
        if low >= 0 and high <= 65535:
            return WIDE
    spans = [np.subtract(*np.percentile(one.sample, OUTLIERS[::-1])) for one in found]
    if max(spans) > UNALIKE * min(spans):
        log.warning(
            "volumes span from %.3g to %.3g between their percentiles %g and %g, and one map for all leaves few steps to some: "
            "their numbers have no common unit, data.normalise=case gives each its own", min(spans), max(spans), *OUTLIERS
        )  # fmt: skip
    low, high = np.percentile(np.concatenate([one.sample for one in found]), OUTLIERS).tolist()
    return Quantisation(low, 65535 / max(high - low, 1e-12), 16)


def _read_finite(path: Path) -> np.ndarray:
    """Read the intensities of a volume. Raises DataError, also for NaN and infinity."""
    numbers = volumes.read_intensities(path)
    if numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
        raise DataError(f"{path} has values that are not finite: replace them, for example by its least value")
    return numbers
