"""The annotations that predictions are compared with: spacing, objects and units at the evaluated resolution."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import split_of
from evaluated_images import config_of

from diffseg.data.packing import PackedImages
from diffseg.evaluation.split import evaluate
from diffseg.evaluation.truth import distance_unit, read_truth
from diffseg.prediction.merging import merge_members


def split_with(spacings, original=(40, 20), size=16, **changes):
    """A split of one image for each spacing, seen at size × size, with a square as its mask."""
    images = [torch.zeros(3, size, size, dtype=torch.uint8) for _ in spacings]
    masks = [torch.zeros(1, size, size, dtype=torch.uint8) for _ in spacings]
    for mask in masks:
        mask[0, 2:6, 2:6] = 1
    split = split_of(images, masks)
    return replace(split, spacings=tuple(spacings), originals=(original,) * len(spacings), **changes)


def predict(split, index, columns, config):
    """The prediction of the square, moved by some columns."""
    mask = split.masks[index][0].roll(columns, 1)
    return merge_members(index, mask.float()[None, None], torch.tensor(1.0), config)


def test_distances_are_in_mm_at_the_size_that_is_evaluated():
    config = config_of(data__size=16)
    split = split_with([(0.5, 2.0)])
    image = read_truth(predict(split, 0, 3, config), split, config)
    assert image.spacing == pytest.approx((0.5 * 40 / 16, 2.0 * 20 / 16))
    found = evaluate([predict(split, 0, 3, config)], split, config)
    assert found["trial"]["distance_unit"] == "mm"
    assert found["trial"]["hd95"] == pytest.approx(3 * 2.5)
    crops = config_of(data__size=16, data__fit="crop", data__scale=0.5)
    small = split_with([(0.5, 2.0)], original=(32, 32))
    assert read_truth(predict(small, 0, 0, crops), small, crops).spacing == pytest.approx((1.0, 4.0))


def test_the_spacing_of_files_is_that_of_their_pixels(tiny, tmp_path):
    split = split_with([(0.5, 2.0)], original=(16, 16), records=(Record(),))
    config = config_of(data__size=16, inference__resolution="original")
    assert read_truth(predict(split, 0, 0, config), split, config).spacing == (0.5, 2.0)


class Record:
    """A record whose mask and objects are those of the split above."""

    files = ()
    name = "0"

    def read_masks(self):
        mask = np.zeros((1, 16, 16), np.uint8)
        mask[0, 2:6, 2:6] = 1
        return mask

    def read_instances(self):
        return np.arange(256, dtype=np.uint16).reshape(1, 16, 16)


def test_distances_are_in_pixels_unless_every_spacing_is_known():
    config = config_of(data__size=16)
    split = split_with([(0.5, 2.0), None])
    assert distance_unit(split) == "px"
    found = evaluate([predict(split, index, 3, config) for index in range(2)], split, config)
    assert found["trial"]["distance_unit"] == "px"
    assert found["trial"]["hd95"] == 3


def test_objects_are_the_annotated_ones_where_they_are_known():
    config = config_of(data__size=16)
    numbers = torch.zeros(1, 16, 16, dtype=torch.int32)
    numbers[0, 2:6, 2:4], numbers[0, 2:6, 4:6] = 1, 2
    split = split_with([None])
    known = replace(split, instances=PackedImages.pack([numbers.to(torch.uint16)]))
    prediction = predict(split, 0, 0, config)
    assert evaluate([prediction], split, config)["trial"]["object_f1"] == 1
    assert evaluate([prediction], known, config)["trial"]["object_f1"] == 0
    original = replace(known, records=(Record(),))
    at_files = config_of(data__size=16, inference__resolution="original")
    assert (read_truth(prediction, original, at_files).instances == np.arange(256).reshape(16, 16)).all()
