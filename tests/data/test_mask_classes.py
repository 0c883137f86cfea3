"""Masks of named classes: the numbers that they are decoded to, in every format, and what is refused."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from diffseg.config import Config
from diffseg.config.data import MAX_LABELS, Data
from diffseg.data.masks import MaskPixels
from diffseg.data.numbering import number_pixels
from diffseg.data.records import BINARY, Record, count_parts
from diffseg.errors import ConfigError, DataError
from diffseg.labels.classes import IGNORED, Classes

SIDE = 16
GRAY = st.integers(0, 255)
COLOUR = st.integers(0, 2**24 - 1).map(lambda code: f"#{code:06x}")
LABELS = {"png": GRAY, "palette": GRAY, "colour": COLOUR, "palette in colours": COLOUR, "tiff": GRAY,
          "deep tiff": st.integers(0, 2**16 - 1), "deep png": st.integers(0, 2**16 - 1),
          "nifti": st.integers(0, 2**31 - 1)}  # fmt: skip


def rgb(colour):
    return tuple(bytes.fromhex(colour[1:]))


def save(kind, path, values, rows):
    """Write a mask; rows are lists of places in values. Return its record."""
    places, path = (
        np.array(rows),
        Path(f"{path}/mask.{'nii.gz' if kind == 'nifti' else 'tif' if 'tif' in kind else 'png'}"),
    )
    if kind == "colour":
        Image.fromarray(np.array([rgb(value) for value in values], np.uint8)[places]).save(path)
    elif kind == "palette in colours":
        image = Image.fromarray(places.astype(np.uint8), "P")
        image.putpalette([channel for value in values for channel in rgb(value)])
        image.save(path)
    elif kind == "palette":
        image = Image.fromarray(np.array(values, np.uint8)[places], "P")
        image.putpalette(np.random.default_rng(0).integers(1, 256, 768).tolist())
        image.save(path)
    elif kind == "nifti":
        volume = np.array(values, np.int32)[places][..., None]
        nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), path)
        return Record("mask", None, path, (path,), index=0)
    else:
        found = np.array(values, np.uint16 if "deep" in kind else np.uint8)[places]
        tifffile.imwrite(path, found) if "tiff" in kind else Image.fromarray(found).save(path)
    return Record("mask", None, path, (path,))


@st.composite
def masks(draw):
    """A format, the values of a mask, their settings, the number of each, and the rows of their places."""
    kind = draw(st.sampled_from(list(LABELS)))
    values = draw(st.lists(LABELS[kind], min_size=3, max_size=9, unique=True))
    black = "#000000" if "colour" in kind else 0
    values = [value for value in values if value != black] + [black]
    labels = draw(st.integers(1, len(values) - 1))
    roles = [draw(st.sampled_from([*range(labels), "background", "ignore"])) for _ in values[labels:-1]]
    roles = [*range(labels), *roles, "background"]
    classes = {f"c{k}": [v for v, role in zip(values, roles, strict=True) if role == k] for k in range(labels)}
    if draw(st.booleans()):
        classes["background"] = [v for v, role in zip(values, roles, strict=True) if role == "background"]
    else:
        roles = [
            role if role != "background" or value == black else "ignore"
            for value, role in zip(values, roles, strict=True)
        ]
    ignore = [value for value, role in zip(values, roles, strict=True) if role == "ignore"]
    numbers = [role + 1 if isinstance(role, int) else IGNORED if role == "ignore" else 0 for role in roles]
    rows = draw(arrays(np.int64, (4, 5), elements=st.integers(0, len(values) - 1)))
    return kind, values, {"classes": classes, "ignore": ignore}, numbers, rows


@given(masks())
def test_every_listed_value_becomes_its_number_in_every_format(tmp_path_factory, mask):
    kind, values, settings, numbers, rows = mask
    record = save(kind, tmp_path_factory.mktemp("masks"), values, rows)
    classes = Classes.of(Data(**settings))
    found = number_pixels(record.image, record.read_labels(record.image), classes)
    assert found.dtype == np.uint8
    assert np.array_equal(found, np.array(numbers)[rows])


@given(masks(), st.data())
def test_a_value_that_nothing_lists_is_refused_by_name_and_file(tmp_path_factory, mask, data):
    kind, values, settings, _, rows = mask
    value = data.draw(LABELS[kind].filter(lambda one: one not in values))
    rows = rows.copy()
    rows[0, 0] = len(values)
    record = save(kind, tmp_path_factory.mktemp("masks"), [*values, value], rows)
    with pytest.raises(DataError) as raised:
        number_pixels(record.image, record.read_labels(record.image), Classes.of(Data(**settings)))
    said = str(raised.value)
    name = str(value) if not kind.startswith("palette") else f"{value} (" if kind == "palette" else f"({value})"
    assert said.startswith(f"{record.image} has the value ")
    assert name in said
    assert "\n" not in said


@given(arrays(np.uint8, (6, 5), elements=st.sampled_from([0, 255])), arrays(bool, (6, 5)), st.sampled_from([1, 7, 127]))
def test_ignored_pixels_of_binary_masks_are_left_out(pixels, void, value):
    drawn = np.where(void, np.uint8(value), pixels)
    expected = np.where(void, IGNORED, pixels > 0)
    classes = Classes.of(Data(ignore=value))
    for rule in ((), "nonzero", ">=1", (255,)):
        assert np.array_equal(number_pixels(Path("x"), MaskPixels(drawn), classes, rule), expected)
    colours = MaskPixels(np.where(void[..., None], np.uint8([255, 0, 0]), pixels[..., None]))
    red = Classes.of(Data(ignore="#ff0000"))
    assert np.array_equal(number_pixels(Path("x"), colours, red), expected)


@given(arrays(np.uint8, (6, 5), elements=st.integers(0, 3)))
def test_regions_share_values(pixels):
    classes = Classes.of(Data(classes={"whole": [1, 2, 3], "core": [1, 3], "spot": 3}, regions=True))
    found = number_pixels(Path("x"), MaskPixels(pixels), classes)
    for numbers, values in zip(classes.numbers, ([1, 2, 3], [1, 3], [3]), strict=True):
        assert np.array_equal(np.isin(found, numbers), np.isin(pixels, values))


def test_a_value_that_is_listed_by_number_and_by_colour_is_refused():
    labels = MaskPixels(np.uint8([[0, 1]]), np.uint8([[0, 0, 0], [255, 0, 0]]))
    for settings in ({"classes": {"a": 1, "b": "#ff0000"}}, {"classes": {"a": 1}, "ignore": "#ff0000"}):
        with pytest.raises(DataError, match=r"has the value 1 \(#ff0000\), which is listed .* with different meanings"):
            number_pixels(Path("x"), labels, Classes.of(Data(**settings)))
    for settings in ({"classes": {"a": [1, "#ff0000"]}}, {"classes": {"a": 1, "b": "#00ff00"}}):
        assert number_pixels(Path("x"), labels, Classes.of(Data(**settings))).tolist() == [[0, 1]]


def test_entry_0_of_a_palette_is_background_only_if_numbers_are_listed():
    labels = MaskPixels(np.uint8([[0, 1]]), np.uint8([[255, 255, 255], [255, 0, 0]]))
    assert number_pixels(Path("x"), labels, Classes.of(Data(classes={"a": 1}))).tolist() == [[0, 1]]
    with pytest.raises(DataError, match=r"the value 0 \(#ffffff\)"):
        number_pixels(Path("x"), labels, Classes.of(Data(classes={"a": "#ff0000"})))


def test_as_many_labels_as_8_bits_hold():
    classes = Classes.of(Data(classes={f"c{k}": k + 1 for k in range(MAX_LABELS)}))
    pixels = np.arange(MAX_LABELS + 1, dtype=np.int32)[None]
    assert np.array_equal(number_pixels(Path("x"), MaskPixels(pixels), classes), pixels)
    with pytest.raises(ConfigError, match=r"255 values: at most 254"):
        Config().with_leaves({"data.classes": {f"c{k}": k + 1 for k in range(255)}})


def test_objects_of_different_classes_are_counted_apart():
    numbers = np.uint8([[[1, 2, 0, 1]]])
    exclusive, regions = ({"a": 1, "b": 2}, False), ({"a": [1, 2], "b": 2}, True)
    assert [
        count_parts(numbers, Classes.of(Data(classes=own, regions=shared))) for own, shared in (exclusive, regions)
    ] == [3, 2]
    assert count_parts(np.minimum(numbers, 1), BINARY) == 2
