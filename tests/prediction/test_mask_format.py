"""What is recorded of the training masks: the value of the background, and the palette."""

from dataclasses import replace

import nibabel
import numpy as np
import pytest
import torch
from conftest import split_of
from PIL import Image

from diffseg.config import Data
from diffseg.data.brats import Slice
from diffseg.data.records import Record
from diffseg.data.slices import list_slices
from diffseg.prediction.mask_format import SAMPLED, MaskFormat

VOC = (0, 0, 0, 128, 0, 0, 0, 128, 0)
LONGER = (*VOC, 128, 128, 0)
WHITE_FIRST = (255, 255, 255, 0, 0, 255, 0, 0, 0)


def colours(palette):
    return tuple(zip(palette[::3], palette[1::3], palette[2::3], strict=True))


def split_with(records):
    """A split of images of one pixel with these files."""
    pixels = torch.zeros(1, 8, 8, dtype=torch.uint8)
    return replace(split_of([pixels] * len(records), [pixels] * len(records)), records=tuple(records))


def mask(path, pixels, palette=None):
    picture = Image.fromarray(np.array(pixels, np.uint8))
    if palette:
        picture.putpalette(palette)
    picture.save(path)
    return Record(path.stem, "train", path, (path,))


RED, WHITE, NUMBERS = {"a": "#ff0000"}, {"a": "#ff0000", "background": "#ffffff"}, {"a": 1, "b": 2}
# fmt: off
CASES = {  # classes, pixels of the masks, their palettes → the format
    "grays": (NUMBERS, [[[0, 1, 2]]], [None], MaskFormat()),
    "a palette": (NUMBERS, [[[0, 1, 2]]], [VOC], MaskFormat(0, colours(VOC))),
    "palettes of several lengths": (NUMBERS, [[[0, 1]], [[1, 2]], [[2]]], [VOC, LONGER, VOC], MaskFormat(0, colours(LONGER))),
    "some with a palette": (NUMBERS, [[[0, 1]], [[2]]], [None, VOC], MaskFormat(0, colours(VOC))),
    "a background beside 0": ({**NUMBERS, "background": [7, 9]}, [[[9, 9, 0, 1]], [[7, 9]]], [None, None], MaskFormat(9)),
    "a listed background that is rare": ({**NUMBERS, "background": 255}, [[[0, 0, 255, 1]]], [None], MaskFormat()),
    "no background at all": ({**NUMBERS, "background": 255}, [[[1, 2]]], [None], MaskFormat()),
    "colours": (RED, [[[[0, 0, 0], [255, 0, 0]]]], [None], MaskFormat("#000000")),
    "colours on white": (WHITE, [[[[255, 255, 255], [255, 0, 0]]]], [None], MaskFormat("#ffffff")),
    "colours of a palette on white": (
        {"a": "#0000ff", "background": "#ffffff"}, [[[0, 0, 1]]], [WHITE_FIRST], MaskFormat("#ffffff", colours(WHITE_FIRST))
    ),
}
# fmt: on


@pytest.mark.parametrize("case", CASES)
def test_the_format_is_that_of_the_training_masks(case, tmp_path):
    classes, masks, palettes, form = CASES[case]
    records = [
        mask(tmp_path / f"{k}.png", pixels, palette)
        for k, (pixels, palette) in enumerate(zip(masks, palettes, strict=True))
    ]
    assert MaskFormat.of(split_with(records), Data(classes=[*classes.items()])) == form


def test_masks_of_no_named_class_are_not_read(tmp_path):
    nowhere = Record("a", "train", tmp_path / "a.png", (tmp_path / "a.png",))
    assert MaskFormat.of(split_with([nowhere]), Data(foreground=[3])) == MaskFormat()


def test_synthetic_images_have_no_files():
    pixels = torch.zeros(1, 8, 8, dtype=torch.uint8)
    assert MaskFormat.of(split_of([pixels], [pixels]), Data(classes=[["a", 1]])) == MaskFormat()


def test_volumes_are_read_for_the_background_alone(tmp_path):
    numbers = np.full((8, 8, 3), 5, np.uint8)
    numbers[0, 0] = 1
    nibabel.save(nibabel.Nifti1Image(numbers, np.eye(4)), tmp_path / "a.nii.gz")
    records = list_slices(Record("a", "train", tmp_path / "a.nii.gz", (tmp_path / "a.nii.gz",)), 2)
    assert MaskFormat.of(split_with(records), Data(classes=[["a", 1], ["background", 5]])) == MaskFormat(5)
    (tmp_path / "a.nii.gz").unlink()
    assert MaskFormat.of(split_with(records), Data(classes=[["a", 1]])) == MaskFormat()
    patient = Slice("b/000", "train", tmp_path / "b", (tmp_path / "b/seg.nii.gz",), "b", 0)
    assert MaskFormat.of(split_with([patient]), Data(classes=[["a", 1]])) == MaskFormat()


@pytest.mark.parametrize("count", [SAMPLED - 1, SAMPLED, SAMPLED + 1, 3 * SAMPLED + 5])
def test_large_data_sets_are_sampled_from_end_to_end(count, tmp_path, monkeypatch):
    records, read = [mask(tmp_path / f"{k:03d}.png", [[0, 1]]) for k in range(count)], []
    whole = Record.read_labels
    monkeypatch.setattr(
        Record, "read_labels", lambda self, path, size=None: read.append(path) or whole(self, path, size)
    )
    MaskFormat.of(split_with(records), Data(classes=[["a", 1]]))
    assert SAMPLED // 2 <= len(read) <= SAMPLED
    assert max(int(path.stem) for path in read) >= 0.9 * (count - 1)
