"""The slices of volumes, which are the images of a data set of volumes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from diffseg.data import nifti, volumes
from diffseg.data.files import is_volume
from diffseg.data.records import Record
from diffseg.errors import DataError
from diffseg.nouns import noun


def list_slices(record: Record, axis: int | None) -> tuple[Record, ...]:
    """List the slices of a volume as images of one group. axis: data.axis.

    Raises DataError for a volume that cannot be read, and for masks and further channels that lie on another grid.
    """
    header = nifti.read_header(record.image)
    for path in record.files[1:]:
        if not is_volume(path):
            raise DataError(f"{path} is a picture, but {record.image} is a volume: give its mask as NIfTI, too")
        volumes.find_orientation(nifti.read_header(path), header)
    axis = header.slice_axis(axis)
    return tuple(
        replace(record, name=f"{record.name}/{index:03d}", index=index, axis=axis) for index in range(header.grid[axis])
    )


def describe_slicing(records: Sequence[Record], axis: int | None) -> tuple[str, ...]:
    """Return a remark on the axis across which slices are taken, and why; none without volumes."""
    axes = Counter({record.image: record.axis for record in records if record.quantised_volume}.values())
    if not axes:
        return ()
    found = " and ".join(
        f"those of {count} {noun(count, 'volume')} across axis {own}" for own, count in sorted(axes.items())
    )
    why = "as data.axis says"
    if axis is None:
        why = "that of the largest spacing (the last of equal ones); data.axis=0, 1 or 2 chooses another"
    return (f"slices are taken from NIfTI volumes: {found}, {why}",)
