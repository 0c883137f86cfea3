"""Data sets: found on disk in their official layout, checked, decoded once, and held as tensors of 8 or 16 bits.

The way of an image: `layouts` finds its files, `requirements` checks them, `partition` gives it a split, `decoding` makes
arrays of it, `cache` keeps these, `dataset` hands them out as a `Split` of tensors.
"""

from diffseg.data.dataset import Dataset, load, load_unlabelled
from diffseg.data.layouts import LAYOUTS, Layout, find
from diffseg.data.listing import Listing
from diffseg.data.records import Record
from diffseg.data.requirements import check_consistency, count_calibration_units, describe_few_held_out, examine
from diffseg.data.splits import Split

__all__ = [
    "LAYOUTS",
    "Dataset",
    "Layout",
    "Listing",
    "Record",
    "Split",
    "check_consistency",
    "count_calibration_units",
    "describe_few_held_out",
    "examine",
    "find",
    "load",
    "load_unlabelled",
]
