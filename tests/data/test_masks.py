"""The foreground of masks of every kind: found, asked about or refused, by all masks of a data set."""

import json
import re
import shlex
from pathlib import Path

import nibabel
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from mask_files import ASKED, BLACK, CUT, GREEN, RED, SIDE, TAKEN, blobs, gray, jpeg, large, palette, plain
from PIL import ImageFilter
from scipy.ndimage import label
from test_data import write_image, write_mask

from diffseg import data
from diffseg.config import Config, parse_leaf
from diffseg.data.check import check
from diffseg.data.mask_histogram import MaskHistogram
from diffseg.data.mask_statistics import MaskStatistics
from diffseg.data.masks import MaskPixels, select_foreground
from diffseg.data.rule_check import find_fault
from diffseg.data.rule_inference import infer_rule
from diffseg.errors import ConfigError, DataError
from studies.commands.program import main


def write(root, draw, extension="png"):
    """Write three training images and two test images with the masks draw(k)."""
    for k, split in enumerate(("train",) * 3 + ("test",) * 2):
        image = draw(k)
        write_image(root / split / "images" / f"{k}.png", image.size[::-1])
        (root / split / "masks").mkdir(exist_ok=True)
        options = {"quality": 75} if extension == "jpg" else {}
        image.save(root / split / "masks" / f"{k}.{extension}", **options)


def settings(**leaves):
    leaves = {"data.name": "mine", "data.layout": "folder", "data.fit": "crop", "data.size": SIDE} | {
        key.replace("__", "."): value for key, value in leaves.items()
    }
    return Config().with_leaves(leaves).data


def masks(root, **leaves):
    return [mask[0].bool().numpy() for mask in data.load(settings(**leaves), root).train.masks]


def pasted(problem, rule):
    """Return whether an argument in the sentence, as a shell reads it, sets the rule."""
    arguments = [shlex.split(one)[0] for one in re.findall(r"'data\.foreground=[^']*'", problem)]
    wanted = settings(data__foreground=rule).foreground
    return wanted in [Config().with_leaves(dict([parse_leaf(one)])).data.foreground for one in arguments]


def error(mask, k):
    truth = blobs(k) if mask.shape == (SIDE, SIDE) else large(blobs(k)) > 0
    return (mask ^ truth).sum() / truth.sum()


@pytest.mark.parametrize("kind", TAKEN)
def test_binary_masks_are_read_and_a_threshold_is_reported(kind, tmp_path):
    write(tmp_path, TAKEN[kind])
    for k, mask in enumerate(masks(tmp_path)):
        assert error(mask, k) <= (0.1 if kind in CUT else 0)
        assert label(mask)[1] == 2
    found = check(settings(), tmp_path)
    assert found.problems == ()
    assert sum("cut at 128" in suspicion for suspicion in found.suspicions) == (kind in CUT)


@pytest.mark.sampled(30)
@pytest.mark.parametrize("kind", ASKED)
@pytest.mark.parametrize("look", [True, False], ids=["check", "load"])
def test_other_masks_are_refused_with_an_argument_that_can_be_pasted(kind, look, tmp_path):
    draw, words, line, taken = ASKED[kind]
    write(tmp_path, draw)
    if look:
        problems = check(settings(), tmp_path).problems
        assert len(problems) == 1
        with pytest.raises(DataError, match=words):
            raise DataError(problems[0])
    else:
        with pytest.raises(DataError, match=words) as raised:
            data.load(settings(), tmp_path)
        problems = [str(raised.value)]
    if line is not None and kind not in ("a void border", "a class", "thin classes"):
        assert pasted(problems[0], line)
    if line is not None:
        found = masks(tmp_path, data__foreground=line)
        assert not taken or all(error(mask, k) <= 0.12 for k, mask in enumerate(found))
        assert check(settings(data__foreground=line), tmp_path).problems == ()


@pytest.mark.parametrize(
    ("kind", "foreground", "words"),
    [
        ("0 and 255", [7], r"has no mask with 7 of .data.foreground=\[7\].: the masks hold 0 \(8\d.*%"),
        ("0 and 255", [255, 7], "has no mask with 7 of"),
        ("0 and 255", ["#ff0000"], 'has no mask with "#ff0000" of'),
        ("0 and 1", ">=128", "has no mask with foreground by 'data.foreground=\">=128\"': the masks hold 0"),
        ("either", [255], r"holds 0 and 1, as 3 masks do, but .* goes up to 255, and .* finds foreground in one kind only: leave"),
        ("either", [1], "finds foreground in one kind only: leave"),
        ("either", ">=128", "leave data.foreground out"),
        ("JPEG", [255], r'would lose \d+\.\d% of the pixels .*set .data.foreground=">=128"'),
        ("JPEG", "nonzero", r'takes \d+\.\d% that is nearer to 0, .*set .data.foreground=">=128"'),
        ("a palette of black and red", ["#00ff00"], "has no mask with"),
        ("another value as JPEG", [200], r"would lose \d+\.\d% of the pixels of 100 and more: set 'data.foreground=\">=100\"'"),
        ("classes as JPEG", [60], "would lose .*save the masks again as PNG"),
        ("classes as JPEG", "nonzero", "takes .* that is nearer to 0"),
        ("red on black, resized", ["#ff0000"], 'one hue on black without a gap: set .data.foreground=">=128"'),
        ("0 and 255", [0, 255], "masks .*full"),
    ],
)  # fmt: skip
def test_a_foreground_that_does_not_fit_is_refused(kind, foreground, words, tmp_path):
    write(tmp_path, TAKEN[kind] if kind in TAKEN else ASKED[kind][0])
    with pytest.raises(DataError, match=words):
        data.load(settings(data__foreground=foreground), tmp_path)
    problems = check(settings(data__foreground=foreground), tmp_path).problems
    assert problems


def test_masks_of_0_and_1_among_jpegs_are_refused(tmp_path):
    write(tmp_path, lambda k: jpeg(plain(k)) if k else gray(blobs(k).astype(np.uint8)))
    for rule in ((), ">=128"):
        with pytest.raises(DataError, match=r"0\.png holds 0 and 1, as 1 mask does.*in one kind only: save all masks"):
            masks(tmp_path, data__foreground=rule)


def test_a_foreground_may_list_the_values_of_both_kinds_of_binary_masks(tmp_path):
    write(tmp_path, TAKEN["either"])
    assert all(error(mask, k) == 0 for k, mask in enumerate(masks(tmp_path, data__foreground=[1, 255])))


@pytest.mark.parametrize("foreground", [[255], "nonzero", [1, 254, 255]])
def test_a_list_of_values_is_refused_for_masks_without_gaps(foreground, tmp_path):
    """Naming the largest value once gave 1.2 % of foreground instead of 13.7 %, without an error."""
    write(tmp_path, lambda k: plain(k).filter(ImageFilter.GaussianBlur(5)))
    if foreground == "nonzero":  # any probability above 0 is then foreground
        assert masks(tmp_path, data__foreground=foreground)
    else:
        with pytest.raises(DataError, match=r"would lose|has no mask with"):
            masks(tmp_path, data__foreground=foreground)


def test_masks_with_different_palettes_need_colours(tmp_path):
    write(tmp_path, lambda k: palette(k, BLACK, GREEN if k else RED))
    masks(tmp_path)
    with pytest.raises(DataError, match=r"entry 1 of its palette, but .* has #.*: name the foreground by its colour"):
        masks(tmp_path, data__foreground=[1])
    assert [mask.any() for mask in masks(tmp_path, data__foreground=["#00ff00"])] == [False, True, True]


@pytest.mark.parametrize(("values", "word"), [((0,), "empty"), ((255,), "full"), ((1,), "full")])
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_split_whose_masks_are_all_empty_or_all_full_is_refused(values, word, split, tmp_path):
    write(tmp_path, plain)
    for path in (tmp_path / split / "masks").iterdir():
        write_mask(path, (SIDE, SIDE), values)
    for look in (data.load, data.examine):  # the latter decodes no images
        with pytest.raises(DataError, match=rf"all \d {split}(ing)? masks of .* are {word}:"):
            look(settings(), tmp_path)
    (problem,) = check(settings(), tmp_path).problems
    assert word in problem


def test_masks_that_resizing_empties_are_refused_with_the_size(tmp_path):
    dot = np.zeros((SIDE, SIDE), np.uint8)
    dot[29, 29] = 255  # between the pixels that resizing samples
    write(tmp_path, lambda k: gray(dot))
    assert check(settings(), tmp_path).problems == ()
    with pytest.raises(
        DataError, match=r"all 3 training masks of .* are empty at data\.size=16: give a larger data\.size"
    ):
        data.load(settings(data__fit="resize", data__size=16), tmp_path)


@pytest.mark.parametrize(("value", "word"), [(0, "empty"), (255, "full")])
def test_uniform_masks_are_refused_before_splits_are_drawn(value, word, tmp_path):
    for k in range(10):
        write_image(tmp_path / "images" / f"{k}.png", (SIDE, SIDE))
        write_mask(tmp_path / "masks" / f"{k}.png", (SIDE, SIDE), (value,))
    with pytest.raises(DataError, match=rf"^all 10 masks of {tmp_path} are {word}: .*"):
        data.examine(settings(), tmp_path)


def test_label_maps_of_volumes_are_refused_like_those_of_pictures(tmp_path):
    for k in range(4):
        labels = np.stack([label(blobs(k))[0]] * 3, -1).astype(np.uint8)
        for folder, array in (
            ("images", np.random.default_rng(k).integers(0, 99, labels.shape, np.uint8)),
            ("masks", labels),
        ):
            (tmp_path / folder).mkdir(exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / folder / f"{k}.nii.gz")
    with pytest.raises(
        DataError, match=r"values 0, 1, 2: .*data\.foreground=\"nonzero\"' for all but 0, or 'data\.foreground=\[1\]'"
    ):
        data.load(settings(data__channels=1), tmp_path)
    assert masks(tmp_path, data__channels=1, data__foreground=[2])[0].sum() == (label(blobs(0))[0] == 2).sum()
    with pytest.raises(DataError, match="has no mask with 3"):
        data.load(settings(data__channels=1, data__foreground=[3]), tmp_path)


def test_the_argument_in_a_problem_of_data_check_solves_it(tmp_path):
    write(tmp_path / "root", ASKED["classes"][0])
    arguments = ["data", "check", "mine", str(tmp_path / "root"), "--sheet", str(tmp_path / "sheet.png"), "--json"]
    asked = CliRunner().invoke(main, arguments)
    assert asked.exit_code == 1, asked.output
    (problem,) = json.loads(asked.stdout)["problems"]
    (first, *_) = re.findall(r"'data\.foreground=[^']*'", problem)
    solved = CliRunner().invoke(main, [*arguments, *shlex.split(first)])
    assert solved.exit_code == 0, solved.output
    assert json.loads(solved.stdout)["problems"] == []
    write(tmp_path / "jpeg", TAKEN["JPEG"])
    cut = CliRunner().invoke(
        main, ["data", "check", "mine", str(tmp_path / "jpeg"), "--sheet", str(tmp_path / "sheet.png")]
    )
    assert cut.exit_code == 0
    assert "masks are cut at 128" in cut.output


def test_the_cache_keeps_the_rule_of_the_foreground(tmp_path):
    write(tmp_path / "root", TAKEN["JPEG"])
    for _ in range(2):
        found = data.load(settings(), tmp_path / "root", tmp_path / "cache")
        assert {record.foreground for record in found.train.records} == {">=128"}


@pytest.mark.parametrize("wrong", [["#f00"], [-1], [1.5], [True], 3, "zero", ">=0", ">128", {"a": 1}, None])
def test_an_invalid_foreground_is_refused_in_one_sentence(wrong):
    with pytest.raises(ConfigError, match=r'allowed are a list of the values .*"nonzero", and ">=N"') as raised:
        settings(data__foreground=wrong)
    assert "\n" not in str(raised.value)


@given(arrays(np.uint8, (9, 7)), st.integers(1, 255))
def test_rules_select_the_pixels_that_they_name(pixels, level):
    labels = MaskPixels(pixels)
    assert (select_foreground(Path("x"), labels, "nonzero") == (pixels > 0)).all()
    assert (select_foreground(Path("x"), labels, f">={level}") == (pixels >= level)).all()
    assert (select_foreground(Path("x"), labels, (level, 0)) == ((pixels == level) | (pixels == 0))).all()
    name = f"#{level:02x}{level:02x}{level:02x}"
    assert (select_foreground(Path("x"), labels, (name,)) == (pixels == level)).all()


@given(arrays(np.uint8, (9, 7)) | arrays(np.uint16, (9, 7)) | arrays(np.int32, (9, 7)) | arrays(np.uint8, (9, 7, 3)))
def test_any_mask_is_decided_on_or_asked_about(pixels):
    mask = MaskHistogram.from_labels(Path("x.png"), MaskPixels(pixels))
    statistics = MaskStatistics((mask,))
    assert statistics.total == 63
    assert mask.counts.sum() == 63
    decision = infer_rule(statistics)
    assert mask.binary or decision.problems or decision.remarks
    for rule in ("nonzero", ">=128", (255,), (0,), ("#000000",)):
        assert mask.count_foreground(rule) == select_foreground(Path("x.png"), MaskPixels(pixels), rule).sum()
        find_fault(statistics, rule)
