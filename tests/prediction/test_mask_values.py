"""Written masks: the values of exclusive classes and regions, palettes, colours, 16 bits, and the names of the maps."""

import itertools
import json

import numpy as np
import pytest
import torch
from class_kinds import KINDS
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from diffseg.config import Config, Data
from diffseg.data import pictures
from diffseg.data.numbering import find_unlisted, number_pixels
from diffseg.errors import UserError
from diffseg.labels.classes import Classes
from diffseg.labels.labels import Labels
from diffseg.prediction.mask_format import MaskFormat
from diffseg.prediction.mask_values import MaskValues, merge_classes
from diffseg.prediction.outputs import name_ends

PALETTE = ((0, 0, 0), (255, 0, 0), (0, 255, 0), (9, 9, 9), (0, 0, 255))
WHITE_FIRST = ((255, 255, 255), (255, 0, 0), (0, 0, 0))
BRATS = {"whole": [1, 2, 4], "core": [1, 4], "enhancing": 4}


def data_of(classes, **settings):
    return Data(classes=[*classes.items()], **settings)


def draw(classes, form, **settings):
    """Return the picture of a mask with background and all labels, by the pixel for each number."""
    values = MaskValues.of(data_of(classes, **settings), form)
    return values.draw(np.arange(len(values.classes.values) + 1, dtype=np.uint8)[None])


# fmt: off
CASES = {  # classes, format, mode of the picture, values as `list_values` gives them
    "numbers": ({"a": 1, "b": 2}, MaskFormat(), "L", [0, 1, 2]),
    "one number": ({"a": 7}, MaskFormat(), "L", [0, 7]),
    "the first of several": ({"a": [3, 1], "b": [2, 9]}, MaskFormat(), "L", [0, 3, 2]),
    "16 bits": ({"a": 255, "b": 256}, MaskFormat(), "I;16", [0, 255, 256]),
    "a background": ({"a": 1, "b": 2, "background": 255}, MaskFormat(255), "L", [255, 1, 2]),
    "another background that is not that of the masks": ({"a": 1, "background": 255}, MaskFormat(0), "L", [0, 1]),
    "a palette": ({"a": 1, "b": 4}, MaskFormat(0, PALETTE), "P", [0, 1, 4]),
    "colours of a palette": ({"a": "#0000ff", "b": "#00ff00"}, MaskFormat("#000000", PALETTE), "P", [0, 4, 2]),
    "a white background of a palette": ({"a": "#ff0000", "background": "#ffffff"}, MaskFormat("#ffffff", WHITE_FIRST), "P", [0, 1]),
    "numbers and colours of a palette": ({"a": 1, "b": "#0000ff"}, MaskFormat(0, PALETTE), "P", [0, 1, 4]),
    "the first that is in the palette": ({"a": ["#123456", 3]}, MaskFormat(0, PALETTE), "P", [0, 3]),
    "a palette that lacks a number": ({"a": 1, "b": 5}, MaskFormat(0, PALETTE), "L", [0, 1, 5]),
    "colours": ({"a": "#ff0000", "b": "#00FF00"}, MaskFormat("#000000"), "RGB", ["#000000", "#ff0000", "#00ff00"]),
    "a coloured background": ({"a": "#ff0000", "background": "#ffffff"}, MaskFormat("#ffffff"), "RGB", ["#ffffff", "#ff0000"]),
    "colours that the palette lacks": ({"a": "#ff0001"}, MaskFormat("#000000", PALETTE), "RGB", ["#000000", "#ff0001"]),
    "grays as colours": ({"a": "#808080", "b": "#ffffff"}, MaskFormat("#000000"), "L", [0, 128, 255]),
    "a number or a colour": ({"a": ["#ff0000", 1], "b": 2}, MaskFormat(0), "L", [0, 1, 2]),
    "numbers and colours": ({"a": "#ff0000", "b": 2}, MaskFormat(0), "RGB", ["#000000", "#ff0000", "#020202"]),
}
# fmt: on


@pytest.mark.parametrize("case", CASES)
def test_masks_hold_the_values_of_their_classes(case, tmp_path):
    classes, form, mode, values = CASES[case]
    draw(classes, form).save(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as picture:
        assert picture.mode == mode
    found = pictures.read_labels(tmp_path / "mask.png")
    own = (
        ["#" + bytes(pixel).hex() for pixel in found.pixels[0].tolist()] if found.coloured else found.pixels[0].tolist()
    )
    assert own == values
    if mode == "P":
        assert [tuple(colour) for colour in found.palette.tolist()] == list(form.palette)


@pytest.mark.parametrize("case", CASES)
def test_written_masks_can_be_trained_on(case, tmp_path):
    """Reading a written mask gives the classes back. Numbers and colours together are in no mask that can be read."""
    classes, form, *_ = CASES[case]
    draw(classes, form).save(tmp_path / "mask.png")
    own = Classes.of(data_of(classes))
    found = pictures.read_labels(tmp_path / "mask.png")
    if case == "numbers and colours":
        assert find_unlisted(tmp_path / "mask.png", found, own)
    else:
        assert number_pixels(tmp_path / "mask.png", found, own).tolist() == [[*range(len(own.values) + 1)]]


@pytest.mark.parametrize(
    ("classes", "form", "words"),
    [
        ({"a": 70000}, MaskFormat(), "values up to 70000, and pictures hold at most 65535"),
        ({"a": 300, "b": "#ff0000"}, MaskFormat(), "both colours and numbers above 255"),
    ],
)
def test_values_that_no_picture_holds_are_refused(classes, form, words):
    with pytest.raises(UserError, match=words):
        draw(classes, form)


def test_masks_of_no_named_class_hold_0_and_255():
    for settings in ({}, {"foreground": [3]}, {"ignore": 7}):
        values = MaskValues.of(Data(**settings), MaskFormat(0, PALETTE))
        picture = values.draw(np.array([[0, 1]], np.uint8))
        assert picture.mode == "L"
        assert np.asarray(picture).tolist() == [[0, 255]]
        assert values.volume.tolist() == [0, 1]
        assert values.volume.dtype == np.uint8


@pytest.mark.parametrize(
    ("classes", "background", "values", "kind"),
    [
        ({"a": 1, "b": [4, 2]}, 0, [0, 1, 4], np.uint8),
        ({"a": 256}, 0, [0, 256], np.int16),
        ({"a": 40000}, 0, [0, 40000], np.int32),
        ({"a": 1, "background": 9}, 9, [9, 1], np.uint8),
        ({"a": "#010101"}, "#000000", [0, 1], np.uint8),
    ],
)
def test_volumes_have_the_smallest_type_that_holds_the_values(classes, background, values, kind):
    found = MaskValues.of(data_of(classes), MaskFormat(background)).volume
    assert found.tolist() == values
    assert found.dtype == kind


def test_volumes_of_coloured_classes_are_refused():
    with pytest.raises(UserError, match="have colours, which volumes cannot hold: give pictures"):
        _ = MaskValues.of(data_of({"a": "#ff0000"}), MaskFormat()).volume


def test_regions_are_painted_from_the_largest_to_the_smallest():
    """Each region has the value that belongs to it and to as few others as possible. The order of naming does not matter."""
    for order in itertools.permutations(BRATS):
        data = data_of({name: BRATS[name] for name in order}, regions=True)
        values = MaskValues.of(data, MaskFormat())
        for inside in itertools.product((False, True), repeat=3):
            whole, core, enhancing = inside
            masks = torch.tensor([dict(zip(BRATS, inside, strict=True))[name] for name in order])[:, None, None]
            found = values.volume[merge_classes(masks, Classes.of(data)).numpy()]
            assert found.tolist() == [[4 if enhancing else 1 if core else 2 if whole else 0]]


def test_a_pixel_of_two_regions_has_the_value_that_both_share():
    data = data_of({"a": [1, 3], "b": [2, 3]}, regions=True)
    masks = torch.tensor([[[False, True, False, True]], [[False, False, True, True]]])
    assert MaskValues.of(data, MaskFormat()).volume[merge_classes(masks, Classes.of(data))].tolist() == [[0, 1, 2, 3]]


def tables(regions):
    """Draw tables of classes with numbers 1 to 9; exclusive ones share none."""
    members = st.lists(st.frozensets(st.integers(1, 9), min_size=1), min_size=1, max_size=5)
    if not regions:
        members = members.map(
            lambda found: [left for k, own in enumerate(found) if (left := own.difference(*found[:k]))]
        )
    return members.map(lambda found: [[f"c{k}", sorted(own)] for k, own in enumerate(found)])


@given(st.booleans().flatmap(lambda regions: st.tuples(st.just(regions), tables(regions))))
def test_written_masks_are_those_of_the_classes(case):
    """Whatever a training mask can hold, a prediction of it is written in the same classes."""
    regions, table = case
    data = Data(classes=table, regions=regions)
    classes = Classes.of(data)
    numbers = torch.arange(len(classes.values) + 1, dtype=torch.uint8)[None]
    masks = Labels.of(Config(data=data)).class_masks(numbers)
    written = MaskValues.of(data, MaskFormat()).volume[merge_classes(masks, classes).numpy()]
    assert [own for own, _ in table] == list(classes.names)
    for k, (_, values) in enumerate(table):
        assert np.array_equal(np.isin(written, values), masks[k].numpy())


@given(st.integers(0, 2**32 - 1))
def test_any_prediction_of_regions_lies_within_what_was_predicted(seed):
    """A pixel's value belongs to none but regions of the training masks, and to one of those predicted there, if any."""
    data = data_of({"a": [1, 3, 4], "b": [2, 3, 5], "c": [5, 4]}, regions=True)
    classes = Classes.of(data)
    masks = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(seed)) < 0.5
    written = MaskValues.of(data, MaskFormat()).volume[merge_classes(masks, classes).numpy()]
    assert np.array_equal(written > 0, masks.any(0).numpy())
    inside = np.stack([np.isin(written, values) for _, values in data.classes])
    assert (inside & masks.numpy()).any(0)[written > 0].all()


@pytest.mark.parametrize("kind", KINDS)
def test_maps_have_the_class_at_the_end_of_their_names(kind, tiny):
    ends = name_ends(Classes.of(tiny(**KINDS[kind]).data))
    names = {"binary": [""], "classes": ["-one", "-two"], "regions": ["-whole", "-core", "-enhancing"]}
    assert ends == names[kind]


@pytest.mark.parametrize(
    ("names", "ends"),
    [
        (["left lung", "right lung"], ["-left-lung", "-right-lung"]),
        (["a b", "a-b", "a-b-2", "A B"], ["-a-b", "-a-b-2", "-a-b-2-2", "-A-B-3"]),
        (["core", "Core"], ["-core", "-Core-2"]),
        (["größe", "GRÖSSE"], ["-größe", "-GRÖSSE-2"]),
        (["only one"], [""]),
    ],
)
def test_names_of_classes_become_distinct_names_of_files(names, ends):
    assert name_ends(Classes.of(data_of({name: k for k, name in enumerate(names, 1)}))) == ends


def test_a_format_is_restored_from_the_ledger():
    for form in (MaskFormat(), MaskFormat("#ffffff", PALETTE), MaskFormat(255)):
        assert MaskFormat.from_json(form.to_json()) == form
    for text in ("[]", "{", "3", json.dumps({"palette": None}), json.dumps({"background": 0, "palette": [1]})):
        with pytest.raises((ValueError, KeyError, TypeError)):
            MaskFormat.from_json(text)
