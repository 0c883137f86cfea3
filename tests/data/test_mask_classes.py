"""Masks of named classes: the numbers that they are decoded to, in every format, and what is refused."""

import json
import logging
import shlex
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from mask_files import jpeg
from PIL import Image
from test_data import write_image

from diffseg import data
from diffseg.config import Config, parse_leaf
from diffseg.config.data import MAX_LABELS, Data
from diffseg.data.check import check
from diffseg.data.masks import MaskPixels
from diffseg.data.numbering import number_pixels
from diffseg.data.records import BINARY, Record, count_parts
from diffseg.errors import ConfigError, DataError
from diffseg.labels.classes import IGNORED, Classes
from studies.commands.program import main

SIDE = 16
GRAY = st.integers(0, 255)
COLOUR = st.integers(0, 2**24 - 1).map(lambda code: f"#{code:06x}")
DEEP = st.integers(0, 2**16 - 1)
LABELS = {
    "png": GRAY, "palette": GRAY, "colour": COLOUR, "palette in colours": COLOUR, "tiff": GRAY,
    "deep tiff": DEEP, "deep png": DEEP, "nifti": st.integers(0, 2**31 - 1),
}  # fmt: skip


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
def test_every_listed_value_becomes_its_number_in_every_format_of_all_raters(tmp_path_factory, mask):
    kind, values, settings, numbers, rows = mask
    raters = [rows, rows[::-1]]
    records = [save(kind, tmp_path_factory.mktemp("masks"), values, own) for own in raters]
    files = tuple(record.image for record in records)
    record = replace(records[0], annotations=files, classes=Classes.of(Data(**settings)))
    found = record.read_masks()
    assert found.dtype == np.uint8
    assert np.array_equal(found, np.array(numbers)[raters])
    assert Record.from_json(json.loads(json.dumps(record.to_json()))) == record


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


# Whole data sets

TWO = {"one": 1, "two": 2}
RNG = np.random.default_rng(0)


def squares(k, first=1, second=2):
    """Return a mask of two squares that touch."""
    pixels = np.zeros((SIDE, SIDE), np.uint8)
    pixels[2 + k : 7 + k, 3:8], pixels[2 + k : 7 + k, 8:12] = first, second
    return pixels


def write(root, draw, masks="masks", extension="png"):
    """Write four training and two test images with the masks draw(k), arrays or pictures."""
    for k in range(6):
        folder = root / ("train" if k < 4 else "test")
        write_image(folder / "images" / f"{k}.png", (SIDE, SIDE))
        (folder / masks).mkdir(parents=True, exist_ok=True)
        found = draw(k)
        (Image.fromarray(found) if isinstance(found, np.ndarray) else found).save(folder / masks / f"{k}.{extension}")


def settings(**leaves):
    given = {"name": "mine", "layout": "folder", "fit": "crop", "size": SIDE, "classes": TWO}
    return Data(**given | leaves)


def load(root, **leaves):
    return data.load(settings(**leaves), root).train.masks


def pair(*colours):
    """Draw the squares in two colours."""
    return lambda k: Image.fromarray(np.array([(0, 0, 0), *map(rgb, colours)], np.uint8)[squares(k)])


def test_masks_are_loaded_as_numbers_at_any_size(tmp_path):
    write(tmp_path, lambda k: squares(k, 5, 9))
    named = {"nine": 9, "five": 5}
    assert np.array_equal(load(tmp_path, classes=named)[1][0], squares(1, 2, 1))
    small = load(tmp_path, classes=named, fit="resize", size=8)[0]
    assert np.array_equal(small[0], squares(0, 2, 1)[1::2, 1::2])
    padded = load(tmp_path, classes=named, size=24)[0][0]
    assert np.array_equal(padded, np.pad(squares(0, 2, 1), (0, 8), mode="symmetric"))


def test_raters_keep_their_classes(tmp_path):
    write(tmp_path, squares, "masks_0")
    write(tmp_path, lambda k: squares(k, 2, 0), "masks_1")
    found = load(tmp_path)[2]
    assert np.array_equal(found, [squares(2), squares(2, 2, 0)])


def test_the_cache_and_the_records_keep_the_classes(tmp_path):
    write(tmp_path / "root", lambda k: squares(k, 3, 7))
    for classes in ({"a": 3, "b": 7}, {"a": 7, "b": 3}, {"both": [3, 7]}):
        for _ in range(2):
            own = settings(classes=classes)
            found = data.load(own, tmp_path / "root", tmp_path / "cache").train
            assert np.array_equal(found.record(0).read_masks(), found.masks[0])
            assert found.record(0).classes == Classes.of(own)
            assert set(np.unique(found.masks[0])) == set(range(len(classes) + 1))


OBJECTS = [squares(0, 1, 0), squares(0, 0, 2)]


@pytest.mark.parametrize(
    ("objects", "expected"),
    [(OBJECTS, squares(0)), ([squares(0, 2, 0), squares(0, 2, 0)], squares(0, 2, 0)),
     ([squares(0, 1, 255), squares(0, 0, 2)], squares(0)), ([squares(0, 1, 2), squares(0, 0, 255)], squares(0))],
)  # fmt: skip
def test_objects_in_a_file_each_are_united_by_class(objects, expected, tmp_path):
    write(tmp_path, squares)
    for number, pixels in enumerate(objects):
        for split, names in (("train", range(4)), ("test", range(4, 6))):
            for k in names:
                path = tmp_path / split / "masks" / f"{k}_{number}.png"
                Image.fromarray(pixels).save(path)
                (path.parent / f"{k}.png").unlink(missing_ok=True)
    assert np.array_equal(load(tmp_path, objects=True, ignore=255)[0][0], expected)


def test_objects_of_different_classes_must_not_overlap(tmp_path):
    test_objects_in_a_file_each_are_united_by_class(OBJECTS, squares(0), tmp_path)
    Image.fromarray(squares(0, 2, 0)).save(tmp_path / "train" / "masks" / "0_1.png")
    with pytest.raises(DataError, match=r"0_1\.png marks pixels that another object .* gives to another class"):
        load(tmp_path, objects=True)
    with pytest.raises(ConfigError, match=r"objects=true .* regions=true"):
        Config().with_leaves({"data.objects": True, "data.classes": TWO, "data.regions": True})


FAULTS = {
    "unlisted": (lambda k: squares(k, 1, 3 if k == 2 else 2), {}, r"2\.png has the value 3, which no class .*: add it there"),
    "several": (lambda k: squares(k, 3, 4), {}, r"0\.png has the values 3, 4, which .*and 5 more: `diffseg data check"),
    "JPEG": (lambda k: jpeg(Image.fromarray(squares(k, 100, 200))), {"classes": {"a": 100, "b": 200}},
             r"has \d+ values that no class .*as JPEG or resizing leaves them: save the masks again as PNG"),
    "colours": (pair("#ff0000", "#00ff00"), {}, r"has the values #00ff00, #ff0000, which no class"),
    "a colour": (pair("#ff0000", "#00ff00"), {"classes": {"a": "#ff0000"}}, r"has the value #00ff00, which"),
    "0 and 255": (lambda k: squares(k, 255, 255), {}, r"has the value 255, which"),
    "empty": (lambda k: squares(k, 0, 0), {}, r"all 4 training masks|all 2 test masks of .* are empty: masks must hold two"),
    "full": (lambda k: np.ones((SIDE, SIDE), np.uint8), {}, r"are full: masks must hold two of the classes"),
    "ignored": (lambda k: squares(k, 9, 9), {"ignore": 9}, r"are empty: masks must hold two"),
    "blurred ignored": (lambda k: jpeg(Image.fromarray(squares(k, 255, 128)), 60), {"classes": {}, "ignore": 128},
                        r"as JPEG or resizing leaves them, so its ignored pixels \(data\.ignore=\[128\]\) cannot be told"),
    "raters or objects": (None, {}, r"data\.objects=true unites them"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("look", ["check", "load", "examine"])
def test_masks_that_do_not_fit_the_classes_are_refused_in_one_sentence(kind, look, tmp_path):
    draw, leaves, words = FAULTS[kind]
    write(tmp_path, draw or (lambda k: squares(k, 1, 0)), "masks" if draw else "masks_0")
    if draw is None:
        write(tmp_path, lambda k: squares(k, 0, 2), "masks_1")
    own = settings(**leaves)
    if look == "check":
        problems = check(own, tmp_path).problems
        assert len(problems) == len(set(problems)) == {"unlisted": 1, "raters or objects": 1}.get(kind, len(problems))
        with pytest.raises(DataError, match=words.replace(".*and 5 more: `diffseg data check", "")):
            raise DataError(problems[0])
    else:
        with pytest.raises(DataError, match=words) as raised:
            {"load": data.load, "examine": data.examine}[look](own, tmp_path)
        assert "\n" not in str(raised.value)


def test_palettes_that_differ_need_colours(tmp_path):
    def draw(k):
        image = Image.fromarray(squares(k), "P")
        image.putpalette([0, 0, 0, *((255, 0, 0, 0, 255, 0) if k % 2 else (0, 255, 0, 255, 0, 0))])
        return image

    write(tmp_path, draw)
    with pytest.raises(DataError, match=r"entry 1 of its palette, but .* has #.*: list colours, such as \"#"):
        load(tmp_path)
    found = load(tmp_path, classes={"red": "#ff0000", "green": "#00ff00"})
    assert [np.array_equal(mask[0], squares(k, 2 - k % 2, 1 + k % 2)) for k, mask in enumerate(found)] == [True] * 4


@pytest.mark.parametrize("foreground", [(), "nonzero", [255]])
def test_ignored_values_of_binary_masks_need_no_classes(foreground, tmp_path):
    write(tmp_path, lambda k: squares(k, 255, 100))
    found = load(tmp_path, classes={}, ignore=100, foreground=foreground)
    assert np.array_equal(found[0][0], squares(0, 1, IGNORED))
    part = check(settings(classes={}, ignore=100, foreground=foreground), tmp_path).splits["train"]
    assert part.ignored == pytest.approx(20 / 256)
    assert part.foreground[1] == pytest.approx(25 / 236)


def test_a_question_about_values_suggests_classes(tmp_path):
    write(tmp_path, squares)
    with pytest.raises(DataError, match=r"name each class, such as") as raised:
        load(tmp_path, classes={})
    argument = shlex.split(str(raised.value).rpartition("such as ")[2])[0]
    assert Config().with_leaves(dict([parse_leaf(argument)])).data.classes == (("a", (1,)), ("b", (2,)))


def test_data_check_reports_every_class(tmp_path, caplog):
    write(tmp_path / "root", lambda k: squares(k, 1, 2 if k else 7))
    given = 'data.classes={"one": 1, "two": 2, "three": 3}'
    arguments = [
        "data",
        "check",
        "mine",
        str(tmp_path / "root"),
        given,
        "data.ignore=7",
        "--sheet",
        str(tmp_path / "sheet.png"),
    ]
    found = CliRunner().invoke(main, [*arguments, "--json"])
    assert found.exit_code == 0, found.output
    report = json.loads(found.stdout)
    part = report["splits"]["train"]
    assert part["ignored"] == pytest.approx(20 / 1024)
    assert {name: one["images"] for name, one in part["classes"].items()} == {"one": 4, "two": 3, "three": 0}
    assert part["classes"]["one"]["share"] == pytest.approx((3 * 25 / 256 + 25 / 236) / 4)
    assert sum("class three occurs in no training mask" in one for one in report["suspicions"]) == 1
    assert sum("class three occurs in no test mask" in one for one in report["suspicions"]) == 1
    assert (
        "one 10.0% in 4 images; two 5.9% in 3 images; three 0.0% in 0 images"
        in CliRunner().invoke(main, arguments).output
    )
    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"))
    for colour in ("#e69f00", "#56b4e9", "#009e73", "#999999"):  # in the legend
        assert (sheet == rgb(colour)).all(-1).sum() > 50
    assert not any("data.ignore" in one for one in report["suspicions"])
    absent = settings(classes={"one": 1, "two": 2, "three": 7}, ignore=9)
    assert any("no mask has a pixel of data.ignore" in one for one in check(absent, tmp_path / "root").suspicions)
    with caplog.at_level(logging.WARNING):
        load(tmp_path / "root", classes={"one": 1, "two": 2, "three": 3}, ignore=7)
    assert "class three occurs in no training mask at data.size=16" in caplog.text
    assert "class three occurs in no test mask at data.size=16: that it is not predicted there" in caplog.text


@pytest.mark.parametrize("given", [{"classes": TWO}, {"ignore": 7}])
def test_layouts_without_values_refuse_classes(given, tmp_path):
    training = "MoNuSeg 2018 Training Data"
    for folder in ("MoNuSegTestData", f"{training}/Tissue Images", f"{training}/Annotations"):
        write_image(tmp_path / folder / "a.tif", (SIDE, SIDE))
        (tmp_path / folder / "a.xml").write_text("<A/>")
    for look in (data.find, data.load, check):
        with pytest.raises(DataError, match=rf"data\.{next(iter(given))} lists values .* \(layout monuseg\): leave"):
            look(Data(name="mine", layout="monuseg", **given), tmp_path)


# Synthetic data


def test_synthetic_classes_are_drawn_and_must_be_named():
    own = Data(kind="classes", classes=TWO, size=32, train_images=12, test_images=4)
    found = data.load(own, None)
    masks = np.stack([mask[0].numpy() for mask in found.train.masks])
    assert 0.03 < (masks == 1).mean() < 0.3
    assert 0.03 < (masks == 2).mean() < 0.3
    merged = data.load(Data(**own.model_dump() | {"classes": {"both": [1, 2]}}), None)
    assert np.array_equal(np.stack([mask[0].numpy() for mask in merged.train.masks]), masks > 0)
    assert data.load(own, None).digest == found.digest
    with pytest.raises(ConfigError, match=r'name them, such as data.classes=\{"one": 1, "two": 2\}'):
        Config().with_leaves({"data.kind": "classes"})
    for kind, classes, words in (("large", TWO, "class two"), ("classes", {"a": 1}, "the value 2, which no class")):
        with pytest.raises(DataError, match=words):
            data.load(Data(kind=kind, classes=classes, size=16, train_images=2, test_images=2), None)


def test_a_class_of_any_legal_name_must_not_be_ignored():
    for name in ("lesion", "ignored pixels"):
        with pytest.raises(ConfigError, match=rf"the value 3 is both of {name} and of ignored pixels"):
            Config().with_leaves({"data.classes": {name: 3, "a": 1}, "data.ignore": 3})


def test_names_that_differ_in_blanks_are_refused():
    with pytest.raises(ConfigError, match="class a is given twice"):
        Config().with_leaves({"data.classes": {"a ": 1, "a": 2}})
