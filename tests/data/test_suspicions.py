"""What `data check` reports as suspicious, what it does not, and how it prints many problems."""

import re
import shutil

import numpy as np
import pytest
from PIL import Image
from test_data import config, folder, write_image, write_mask
from test_partition import patients

from diffseg.data.check import check, measure_agreement
from diffseg.data.findings import group_by_kind

RNG = np.random.default_rng(0)
SPLITS = {"train": 30, "test": 16}


def texture(side=64):
    """Return a smooth gray picture with details of several pixels, like tissue, uint8 [side, side]."""
    coarse = Image.fromarray(RNG.integers(0, 255, (side // 3, side // 3), dtype=np.uint8))
    return np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))


def save(root, split, name, pixels, share=0.3):
    for kind in ("images", "masks"):
        (root / split / kind).mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(root / split / "images" / f"{name}.png")
    mask = np.zeros(pixels.shape[:2], np.uint8)
    mask[: round(share * len(mask))] = 255
    Image.fromarray(mask).save(root / split / "masks" / f"{name}.png")


def sound(root):
    """Write a data set with nothing suspicious."""
    for split, count in SPLITS.items():
        for k in range(count):
            save(root, split, f"{split}{chr(97 + k % 26)}{k}", texture(), RNG.uniform(0.2, 0.6))


def edited(root):
    """Add a test image that is a brighter, noisy, slightly cropped training image."""
    pixels = texture()
    save(root, "train", "original", pixels)
    other = np.clip(0.8 * pixels[1:] + 40 + RNG.normal(0, 3, pixels[1:].shape), 0, 255)
    save(root, "test", "edited", other.astype(np.uint8))


def copied(root):
    pixels = texture()
    save(root, "train", "original", pixels)
    save(root, "test", "copy", pixels)


def other_foreground(root):
    for k in range(16):
        save(root, "test", f"small{chr(97 + k)}", texture(), RNG.uniform(0.02, 0.1))


def emptied(root):
    for k in range(16):
        save(root, "test", f"empty{chr(97 + k)}", texture(), 0)


def deep(root):
    save(root, "train", "deep", texture().astype(np.uint16) * 200)


def coloured(root):
    save(root, "train", "coloured", np.stack([texture()] * 3, 2))


def black(root):
    """Add two images of one value, which are no copies of each other."""
    for split in SPLITS:
        save(root, split, f"black{split}", np.zeros((64, 64), np.uint8))


def sliced(root):
    for split in SPLITS:
        for k in range(12):
            for patient in ("p01", "p02", "p03"):
                save(root, split, f"{patient}_slice_{k}{SPLITS[split]}", texture())


def classes(root):
    for split in SPLITS:
        for k in range(12):
            for name in ("benign", "malignant"):
                save(root, split, f"{name} {k}{SPLITS[split]}", texture())


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (None, []),
        (black, []),
        (classes, []),
        (edited, ["1 test image looks nearly like a training image, such as "]),
        (copied, ["hold the same image in training and testing"]),
        (other_foreground, ["masks of the splits differ: "]),
        (emptied, ["masks of the splits differ: ", "0% of the training masks are empty, but 50% of the test masks"]),
        (deep, ["images differ in bits a channel (46 of 8 and 1 of 16, such as "]),
        (coloured, ["images differ in channels (46 of 1 and 1 of 3, such as "]),
        (sliced, ["such as p01 with 24, and 3 of 3 would be in both splits"]),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_looks_wrong_is_reported_and_nothing_else(spoil, words, tmp_path):
    sound(tmp_path)
    if spoil:
        spoil(tmp_path)
    found = check(config("folder"), tmp_path)
    assert found.problems == ()
    assert len(found.suspicions) == len(words), found.suspicions
    for suspicion, expected in zip(found.suspicions, words, strict=True):
        assert expected in suspicion


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({f"p{k:02}": 1 for k in range(60)}, []),
        ({f"p{k:02}": 2 for k in range(55)}, ["only 11 test patients or volumes: "]),
        ({"p1": 10, "p2": 10}, ["only 1 test patient or volume: "]),
    ],
)
def test_too_few_patients_are_reported_however_many_images_they_have(sizes, words, tmp_path):
    patients(tmp_path, sizes)
    found = [suspicion for suspicion in check(config("folder"), tmp_path).suspicions if suspicion.startswith("only")]
    assert len(found) == len(words)
    for suspicion, expected in zip(found, words, strict=True):
        assert suspicion.startswith(expected)
        assert "so give at least 12" in suspicion


def test_copies_across_splits_are_reported_before_others(tmp_path):
    sound(tmp_path)
    for k in range(5):
        pixels = texture()
        save(tmp_path, "train", f"a{k}", pixels)
        save(tmp_path, "test" if k == 4 else "train", f"b{k}", pixels)
    first, second, more = (text for text in check(config("folder"), tmp_path).suspicions if "nearly" not in text)
    assert "in training and testing" in first
    assert "in training and testing" not in second
    assert more == "3 more images occur more than once"


PROBLEMS = [
    [f"/data/my set/masks/m {k}.png has no image: add it, or remove the mask" for k in range(9)],
    [f"/data/my set/images/{k}.png has no mask: add it, or remove the image" for k in range(5)],
    [f"/data/my set/split.csv does not list case.{k}: add a line for it, or remove the image" for k in range(4)],
    [f"/data/my set/split.csv, line {k} has the split 'dev{k}': allowed are train, val and test" for k in range(4)],
    [
        f"/data/my set/masks/{k}.png has the values 0, {k}, …: a mask holds 0 for background and 255 or 1 for foreground; "
        f"if it holds others, name those of the foreground, such as data.foreground=[{k}]"
        for k in range(7)
    ],
    [
        f"/data/my set/masks/{k}.nii.gz is {k} × 20 px, but its image is 24 × 20: mask and image must have one size"
        for k in range(4)
    ],
    [f"/data/my set/BraTS{k} has no seg: add the file, or remove the folder" for k in range(6)],
    [f"/data/my set/images/{k}.png and {k}.jpg have one name: leave only one of them" for k in range(6)],
]


def test_problems_that_differ_in_files_and_numbers_are_of_one_kind():
    mixed = [problem for alike in PROBLEMS for problem in alike]
    RNG.shuffle(mixed)
    found = group_by_kind(mixed, "/data/my set")
    assert sorted(map(sorted, found)) == sorted(map(sorted, PROBLEMS))


def test_problems_of_one_kind_are_printed_on_one_line_with_their_number_and_examples(tmp_path):
    folder(tmp_path)
    for k in range(20):
        write_image(tmp_path / "train/images" / f"more{k}.png")
    write_mask(tmp_path / "train/masks/train0.png", size=(9, 9))
    found = check(config("folder"), tmp_path)
    assert len(found.problems) == len(found.to_dict()["problems"]) == 21
    lines = [line for line in str(found).splitlines() if line.startswith("problem: ")]
    assert len(lines) == 2
    assert lines[0].startswith(f"problem: 20 of a kind: {tmp_path}/train/images/more0.png has no mask: ")
    assert lines[0].endswith("(the others: train/images/more1.png, train/images/more10.png, 17 more)")
    assert "9 × 9 px" in lines[1]


def test_an_image_without_a_mask_is_reported_once(tmp_path):
    sound(tmp_path)
    (tmp_path / "train/masks/traina0.png").unlink()
    (tmp_path / "train/masks/other.dat").write_text("?")
    found = check(config("folder"), tmp_path)
    assert sum("traina0.png" in sentence for sentence in (*found.problems, *found.suspicions)) == 1
    assert any("other.dat is not used" in one for one in found.suspicions)


@pytest.mark.parametrize("empty", [0, 1, 2])
def test_empty_masks_are_counted_in_plain_english(empty, tmp_path):
    sound(tmp_path)
    for k in range(empty):
        save(tmp_path, "test", f"empty{k}", texture(), share=0)
    assert f"1 rater, {empty} empty mask{'s' * (empty != 1)}\n" in f"{check(config('folder'), tmp_path)}\n"


@pytest.mark.parametrize(("specks", "low"), [(5, 9), (100, 1)], ids=["few are no objects", "many are objects"])
def test_specks_are_no_objects_by_which_a_size_is_judged(specks, low, tmp_path):
    sound(tmp_path)
    for path in (tmp_path / "train" / "masks").iterdir():
        mask = np.zeros((64, 64), np.uint8)
        mask[1:30, 1:30] = mask[2:30, 34:43] = 255  # two objects, the narrower one 9 px wide
        rows, columns = np.divmod(np.arange(specks), 32)
        mask[34 + 2 * rows, 2 * columns] = 255
        Image.fromarray(mask).save(path)
    train = check(config("folder"), tmp_path).splits["train"]
    assert train.diameter is not None
    assert train.diameter[0] == pytest.approx(low, abs=0.5)


def test_the_size_of_a_long_object_is_its_width(tmp_path):
    sound(tmp_path)
    for path in (tmp_path / "train" / "masks").iterdir():
        mask = np.zeros((64, 64), np.uint8)
        mask[10:13, 3:60] = 255
        Image.fromarray(mask).save(path)
    assert check(config("folder"), tmp_path).splits["train"].diameter == pytest.approx((3, 3))


def rated(root, raters, overlap):
    """Write images whose raters mark 20 rows each, every one `20 - overlap` rows below the one before."""
    for split in SPLITS:
        for k in range(6):
            save(root, split, f"{split}{chr(97 + k)}", texture())
            for rater in range(raters):
                mask = np.zeros((64, 64), np.uint8)
                mask[(20 - overlap) * rater :][:20] = 255
                path = root / split / f"masks_{rater}" / f"{split}{chr(97 + k)}.png"
                path.parent.mkdir(exist_ok=True)
                Image.fromarray(mask).save(path)
        shutil.rmtree(root / split / "masks")


@pytest.mark.parametrize(
    ("raters", "overlap", "who", "agreement"),
    [
        (2, 10, "both raters", "33.3%"),
        (2, 0, "both raters", "0.0%"),
        (3, 10, "at least 2 of 3 raters", "22.2%"),  # the mean of 1/3, 1/3 and 0
        (4, 20, "at least 3 of 4 raters", "100.0%"),
    ],
)
def test_the_truth_of_several_raters_and_their_agreement_are_one_line_each(raters, overlap, who, agreement, tmp_path):
    rated(tmp_path, raters, overlap)
    found = check(config("folder", objects=False), tmp_path)
    lines = str(found).splitlines()
    assert f"mine: iou and dice compare with what {who} marked, more than half" in lines
    assert f"mine: the mean IoU between two raters is {agreement} in train, {agreement} in test" in lines
    assert found.to_dict()["splits"]["test"]["agreement"] == found.splits["test"].agreement


def test_raters_who_marked_nothing_agree():
    assert measure_agreement(np.zeros((3, 8, 8), np.uint8)) == 1
    assert measure_agreement(np.zeros((1, 8, 8), np.uint8)) is None


def test_nothing_is_said_of_a_single_rater(tmp_path):
    rated(tmp_path, 1, 0)
    assert "raters" not in str(check(config("folder"), tmp_path))


@pytest.mark.parametrize("raters", [1, 2, 3])
def test_a_mask_of_any_rater_that_is_wholly_foreground_is_reported(raters, tmp_path):
    rated(tmp_path, raters, 10)
    place = tmp_path / "train" / f"masks_{raters - 1}"
    for name in ("traina", "trainb"):
        Image.fromarray(np.full((64, 64), 255, np.uint8)).save(place / f"{name}.png")
    (found,) = (one for one in check(config("folder"), tmp_path).suspicions if "nearly all of" in one)
    assert found == f"nearly all of {place / 'traina.png'} (and 1 more) is foreground: check that it is not inverted"


def test_one_of_anything_is_singular(tmp_path):
    patients(tmp_path, {"p1": 1, "p2": 2})
    text = str(check(config("folder"), tmp_path))
    assert "1 image of" in text
    assert "of 1 patient or volume;" in text
    assert not re.search(r"\b1 (images|patients|masks|raters|channels)\b", text)
