"""The spacing of a split's pixels: mm between rows and between columns, as the header of the volume's file says."""

import numpy as np
import pytest
import torch
from test_data import config, write_image, write_mask
from volume_files import edited, save

from diffseg import data
from diffseg.data import nifti

ANGLE = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])  # a turn about the third axis


def affine(spacing, turn=None):
    """Return an affine of the spacing, turned."""
    found = np.diag([*spacing, 1.0])
    found[:3, :3] = (np.eye(3) if turn is None else turn) @ found[:3, :3]
    return found


@pytest.mark.parametrize(
    ("spacing", "axis", "wanted"),
    [
        ((1.0, 2.0, 5.0), 2, (1.0, 2.0)),
        ((5.0, 1.0, 2.0), 0, (1.0, 2.0)),
        ((1.0, 5.0, 2.0), 1, (1.0, 2.0)),
        ((1.0, 2.0, 5.0), 0, (2.0, 5.0)),
        ((1.0, 2.0, 5.0), 1, (1.0, 5.0)),
    ],
)
@pytest.mark.parametrize("turn", [None, ANGLE])
def test_it_is_that_of_a_slices_rows_and_columns(spacing, axis, wanted, turn, tmp_path):
    header = nifti.read_header(save(tmp_path / "a.nii.gz", np.zeros((4, 5, 6), np.uint8), affine(spacing, turn)))
    assert header.slice_spacing(axis) == pytest.approx(wanted)


@pytest.mark.parametrize(("unit", "factor"), [(0, 1.0), (1, 1000.0), (2, 1.0), (3, 0.001), (2 + 8, 1.0), (7, 1.0)])
def test_it_is_in_mm_whatever_the_unit_of_the_header(unit, factor, tmp_path):
    path = save(tmp_path / "a.nii", np.zeros((4, 5, 6), np.uint8), affine((1.0, 2.0, 5.0)))
    assert nifti.read_header(edited(path, xyzt_units=unit)).slice_spacing(2) == pytest.approx((factor, 2 * factor))


def test_it_is_unknown_where_an_axis_has_none(tmp_path):
    path = save(tmp_path / "a.nii", np.zeros((4, 1, 6), np.uint8), None)
    header = nifti.read_header(edited(path, pixdim=[1, 0.7, 0, 2.5, 0, 0, 0, 0], qform_code=0, sform_code=0))
    assert header.slice_spacing(2) is None
    assert header.slice_spacing(1) == pytest.approx((0.7, 2.5))


def test_a_split_has_it_for_each_image_also_from_the_cache(tmp_path):
    for split, count in (("train", 3), ("test", 2)):
        for k in range(count):
            grid = affine((1.0 + k, 2.0, 9.0))
            mask = np.zeros((8, 9, 2), np.uint8)
            mask[2:5, 2:5] = 1
            save(tmp_path / "root" / split / "images" / f"{split}{k}.nii.gz", np.ones((8, 9, 2), np.uint8), grid)
            save(tmp_path / "root" / split / "masks" / f"{split}{k}.nii.gz", mask, grid)
    for _ in range(2):
        found = data.load(config("folder"), tmp_path / "root", tmp_path / "cache")
        assert found.test.spacings == ((1.0, 2.0), (1.0, 2.0), (2.0, 2.0), (2.0, 2.0))
    last = found.test.subset(torch.tensor([3, 0]))
    assert last.spacings == ((2.0, 2.0), (1.0, 2.0))


def test_pictures_have_none(tmp_path):
    for split in ("train", "test"):
        for k in range(2):
            write_image(tmp_path / split / "images" / f"{split}{k}.png")
            write_mask(tmp_path / split / "masks" / f"{split}{k}.png")
    assert data.load(config("folder"), tmp_path).train.spacings == (None, None)
