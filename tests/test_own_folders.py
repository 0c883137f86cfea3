"""The layout `folder`: how masks are named and placed, sub-folders, objects and raters, names in any script."""

import contextlib
import os
import shlex
import tempfile
import unicodedata
from pathlib import Path

import hypothesis
import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_data import config, folder, isic16, monuseg_tree, write_image, write_mask

from diffseg import data
from diffseg.data.check import check
from diffseg.data.files import stem
from diffseg.data.pairing import pair_masks
from diffseg.errors import DataError

SIZE = (20, 24)


def tree(root, *paths):
    """Write a file at each path: a mask where the name of the file or of a folder says so, an image elsewhere."""
    for path in paths:
        name = path.lower()
        is_mask = any(word in name for word in ("mask", "segm", "label", "lesion", "gt", "_seg", "annot"))
        (write_mask if is_mask else write_image)(root / path)


def paths(images, masks, names="abcdef"):
    return [form.format(name) for name in names for form in (images, masks)]


SPLIT = "train/{0}", "test/{0}"

LAYOUTS = {  # by name: files, words of the expected remark (or None), names of the expected images
    "plain": (paths("images/{}.png", "masks/{}.png"), None, "abcdef"),
    **{
        f"suffix {suffix}": (paths("images/{}.png", f"masks/{{}}{suffix}.png"), f"with {suffix.lower()}", "abcdef")
        for suffix in ("_mask", "_segmentation", "_Segmentation", "_label", "_lesion", "_gt", "_seg", "-mask", "_MASK", " mask")
    },
    "prefix": (paths("images/{}.png", "masks/mask_{}.png"), "with mask_", "abcdef"),
    "both affixes": (paths("images/{}_image.png", "masks/{}_mask.png"), "images have _image", [f"{k}_image" for k in "abcdef"]),
    "both prefixes": (paths("images/image_{}.png", "masks/mask_{}.png"), "images have image_", [f"image_{k}" for k in "abcdef"]),
    "extensions": (paths("images/{}.JPG", "masks/{}.PNG"), None, "abcdef"),
    "other folder names": (paths("Imgs/{}.png", "Annotations/{}.png"), "masks are taken from", "abcdef"),
    "capitals": (paths("Images/{}.png", "Masks/{}.png"), None, "abcdef"),
    "splits of other names": (
        paths("Training/images/{}.png", "Training/masks/{}.png", "abcd")
        + paths("testing/images/{}.png", "testing/masks/{}.png", "ef"),
        None, "abcdef",
    ),
    "valid is trained on": (
        paths("train/images/{}.png", "train/masks/{}.png", "abc") + paths("valid/images/{}.png", "valid/masks/{}.png", "d")
        + paths("test/images/{}.png", "test/masks/{}.png", "ef"), None, "abcdef",
    ),
    "splits below images": (
        paths("images/train/{}.png", "masks/train/{}.png", "abcd") + paths("images/test/{}.png", "masks/test/{}.png", "ef"),
        None, "abcdef",
    ),
    "one folder of masks": (
        paths("train/images/{}.png", "masks/{}.png", "abcd") + paths("test/images/{}.png", "masks/{}.png", "ef"),
        "masks of all splits are taken from", "abcdef",
    ),
    "one folder of masks beside images": (
        paths("train/{}.png", "masks/{}_mask.png", "abcd") + paths("test/{}.png", "masks/{}_mask.png", "ef"),
        "masks of all splits are taken from", "abcdef",
    ),
    "images around masks": (paths("{}.png", "masks/{}.png"), None, "abcdef"),
    "side by side": (paths("images/{}.png", "images/{}_mask.png"), "taken from one folder", "abcdef"),
    "side by side at the root": (paths("{}.png", "{}_mask.png"), "taken from one folder", "abcdef"),
    "side by side in splits": (
        paths("train/{}.png", "train/{}_segmentation.png", "abcd") + paths("test/{}.png", "test/{}_segmentation.png", "ef"),
        "taken from one folder", "abcdef",
    ),
    "classes": (
        paths("images/benign/{}.png", "masks/benign/{}.png", "abc")
        + paths("images/malignant/{}.png", "masks/malignant/{}.png", "abc"),
        "benign, malignant are taken for classes", [f"{c}/{k}" for c in ("benign", "malignant") for k in "abc"],
    ),
    "classes side by side": (
        paths("benign/{}.png", "benign/{}_mask.png", "abc") + paths("normal/{}.png", "normal/{}_mask.png", "abc"),
        "benign, normal are taken for classes", [f"{c}/{k}" for c in ("benign", "normal") for k in "abc"],
    ),
    "classes with flat masks": (
        paths("images/benign/{}.png", "masks/{}.png", "abc") + paths("images/malignant/{}.png", "masks/{}.png", "def"),
        "taken for classes", [*(f"benign/{k}" for k in "abc"), *(f"malignant/{k}" for k in "def")],
    ),
    "flat images with masks by class": (
        paths("images/{}.png", "masks/x/{}.png", "abc") + paths("images/{}.png", "masks/y/{}.png", "def"), None, "abcdef",
    ),
    "a folder of masks for each image": (paths("images/{}.png", "masks/{}/only.png"), None, "abcdef"),
    "folders of patients": (
        paths("P1/images/{}.png", "P1/masks/{}.png", "abc") + paths("P2/images/{}.png", "P2/masks/{}.png", "abc"),
        "hold images and masks each / the 2 sub-folders, such as P1", [f"{p}/{k}" for p in ("P1", "P2") for k in "abc"],
    ),
    "folders of images": (
        [path for k in "abcdef" for path in (f"{k}{k}/images/{k}.png", f"{k}{k}/masks/0{k}0.png")],
        "hold images and masks each", [f"{k}{k}/{k}" for k in "abcdef"],
    ),
    "litter": (
        [*paths("images/{}.png", "masks/{}.png"), "images/._a.png", "images/.a.png", "__MACOSX/images/a.png",
         "images/__MACOSX/a.png", "masks/._a.png"], None, "abcdef",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", LAYOUTS)
def test_common_folder_layouts_are_read_and_guesses_are_reported(kind, tmp_path):
    files, words, names = LAYOUTS[kind]
    tree(tmp_path, *files)
    (tmp_path / "Thumbs.db").write_bytes(b"?")
    found = data.find(config("folder"), tmp_path)
    assert found.problems == ()
    assert sorted(record.name for record in found.records) == sorted(names)
    assert all(len(record.annotations) == 1 for record in found.records)
    assert {record.split for record in found.records} in ({"train", "test"}, {None})
    base = {
        record.name: record.name.rsplit("/", 1)[-1].removesuffix("_image").removeprefix("image_")
        for record in found.records
    }
    for record in found.records:
        assert base[record.name] in "/".join(record.annotations[0].parts[-2:])
    remarks = " / ".join(found.remarks)
    assert (words in remarks) if words else not remarks
    loaded = data.load(config("folder"), tmp_path)
    assert loaded.train.masks.values.any()
    report = check(config("folder"), tmp_path)
    assert not report.problems
    assert not [suspicion for suspicion in report.suspicions if "not used" in suspicion]


def test_sub_folders_of_patients_become_groups(tmp_path):
    for patient in range(10):
        tree(tmp_path, *paths(f"images/p{patient}/{{}}.png", f"masks/p{patient}/{{}}_mask.png", "abc"))
    found = data.find(config("folder"), tmp_path)
    assert {record.group for record in found.records} == {f"p{k}" for k in range(10)}
    loaded = data.load(config("folder"), tmp_path)
    assert loaded.test.groups
    assert not set(loaded.train.groups) & set(loaded.test.groups)
    assert "the 10 sub-folders, such as p0, are taken for patients" in " ".join(found.remarks)
    (tmp_path / "split.csv").write_text(
        "name,group\n" + "".join(f"p{p}/{k},g{p // 2}\n" for p in range(10) for k in "abc")
    )
    assert {record.group for record in data.find(config("folder"), tmp_path).records} == {f"g{k}" for k in range(5)}


def test_groups_of_the_table_count_where_folders_give_the_splits(tmp_path):
    for split in ("train", "test"):
        for grade in ("grade1", "grade2"):
            tree(tmp_path, *paths(f"{split}/images/{grade}/{{}}.png", f"{split}/masks/{grade}/{{}}.png", split[:2]))
    (problem,) = data.find(config("folder"), tmp_path).problems
    assert "groups are in both splits: grade1, grade2" in problem
    lines = [
        f"{grade}/{k},{split},{split}-{k}\n"
        for split in ("train", "test")
        for grade in ("grade1", "grade2")
        for k in split[:2]
    ]
    lines = [line for line in lines if "/t," not in line]
    for split in ("train", "test"):
        for grade in ("grade1", "grade2"):
            for kind in ("images", "masks"):
                (tmp_path / split / kind / grade / "t.png").unlink()
    (tmp_path / "split.csv").write_text("name,split,group\n" + "".join(lines))
    found = data.find(config("folder"), tmp_path)
    assert found.problems == ()
    assert {record.group for record in found.records} == {"train-r", "test-e"}
    (tmp_path / "split.csv").write_text("name,split,group\n" + "".join(lines).replace(",test,", ",train,"))
    assert "puts grade1/e into train, but its folder is test" in data.find(config("folder"), tmp_path).problems[0]


def test_sub_folders_of_patients_below_classes_become_groups(tmp_path):
    for place in ("benign/1", "benign/2", "malignant/1"):
        tree(tmp_path, *paths(f"images/{place}/{{}}.png", f"masks/{place}/{{}}.png", "ab"))
    found = data.find(config("folder"), tmp_path)
    assert {record.group for record in found.records} == {"benign/1", "benign/2", "malignant/1"}


def test_volumes_in_folders_of_patients_are_read_slice_by_slice(tmp_path):
    for patient in ("p1", "p2"):
        for visit in "ab":
            for kind in ("images", "masks"):
                (tmp_path / kind / patient).mkdir(parents=True, exist_ok=True)
                array = np.zeros((20, 24, 2), np.uint8)
                array[5:9, 5:9] = 1
                nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / kind / patient / f"{visit}.nii.gz")
    found = data.find(config("folder"), tmp_path)
    assert {record.name for record in found.records} == {
        f"{p}/{v}/00{k}" for p in ("p1", "p2") for v in "ab" for k in (0, 1)
    }
    assert {record.group for record in found.records} == {"p1", "p2"}


def test_unused_masks_are_reported_in_one_sentence(tmp_path):
    folder(tmp_path)
    for k in range(245):
        write_mask(tmp_path / "train/masks" / f"other-{k}.png")
    found = check(config("folder"), tmp_path)
    assert found.problems == ()
    (remark,) = (one for one in found.suspicions if "not used" in one)
    assert "244 more" in remark
    data.load(config("folder"), tmp_path)


def test_masks_with_two_affixes_for_the_same_images_are_refused(tmp_path):
    tree(tmp_path, *paths("images/{}.png", "masks/{}_mask.png"), *paths("images/{}.png", "masks/{}_gt.png"))
    with pytest.raises(DataError, match=r"masks with _(mask|gt) and others with _(mask|gt) for the same images"):
        data.find(config("folder"), tmp_path)


def test_an_image_without_a_mask_is_reported_where_masks_have_an_affix(tmp_path):
    tree(tmp_path, *paths("images/{}.png", "masks/{}_mask.png"))
    (tmp_path / "masks/c_mask.png").unlink()
    (problem,) = data.find(config("folder"), tmp_path).problems
    assert problem.startswith(f"{tmp_path / 'images/c.png'} has no mask")


def spots(root, form, counts, apart=True):
    """Write images, the k-th with counts[k] masks, which mark separate places, or else one around the other."""
    for name, count in zip("abcdef", counts, strict=False):
        write_image(root / "images" / f"{name}.png")
        for k in range(count):
            mask = np.zeros(SIZE, np.uint8)
            row = 2 * (k % 9) if apart else 0
            mask[row : row + 1 if apart else 2 + k, 2:9] = 255
            path = root / "masks" / form.format(name=name, k=k)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(path)


def test_objects_in_folders_of_images_are_united(tmp_path):
    """The 2018 Data Science Bowl has IMAGE/images/IMAGE.png, and IMAGE/masks/*.png with one nucleus each."""
    for k, name in enumerate(("0a1", "7c2", "9f3", "e04")):
        spots(tmp_path / name, "{k}{name}f.png", [k + 1])
    found = data.load(config("folder", objects=True), tmp_path)
    assert sorted((*found.train.objects, *found.test.objects)) == [1, 2, 3, 4]


FORMS = ["{name}_{k}.png", "{name}_mask_{k}.png", "{name}-{k}.png", "{name}/{k}.png"]


@pytest.mark.parametrize("form", FORMS)
def test_masks_that_never_overlap_are_asked_about_and_united_as_objects(form, tmp_path):
    spots(tmp_path, form, [3] * 6)
    with pytest.raises(
        DataError, match=r"mark different places.*data\.objects=true unites them.*set data\.objects=false"
    ):
        data.load(config("folder"), tmp_path)
    assert any("data.objects=true" in problem for problem in check(config("folder"), tmp_path).problems)
    united = data.load(config("folder", objects=True, fit="crop"), tmp_path).train
    assert united.masks.channels == 1
    assert set(united.objects) == {3}
    assert {int(mask.sum()) for mask in united.masks} == {21}
    report = check(config("folder", objects=True), tmp_path)
    assert (report.problems, report.splits["train"].raters, report.splits["train"].objects) == ((), 1, 3)
    assert data.load(config("folder", objects=False), tmp_path).train.masks.channels == 3


@pytest.mark.parametrize("form", FORMS)
def test_objects_may_differ_in_number_and_be_many(form, tmp_path):
    spots(tmp_path, form, [1, 12, 3, 9, 2, 11])
    with pytest.raises(DataError, match=r"set data\.objects=true if each file is an object"):
        data.load(config("folder"), tmp_path)
    found = data.load(config("folder", objects=True), tmp_path)
    assert sorted((*found.train.objects, *found.test.objects)) == [1, 2, 3, 9, 11, 12]


@pytest.mark.parametrize("form", FORMS)
def test_overlapping_masks_are_raters_of_whom_there_may_be_more_than_ten(form, tmp_path):
    spots(tmp_path, form, [12] * 6, apart=False)
    found = data.load(config("folder"), tmp_path).train
    assert found.masks.channels == 12
    areas = [int(mask.sum()) for mask in data.load(config("folder", fit="crop"), tmp_path).train.masks[0]]
    assert areas == sorted(areas) or form == "{name}/{k}.png"


@pytest.mark.parametrize("form", ["masks/{name}_{k}.png", "masks_{k}/{name}.png"])
@pytest.mark.parametrize("name", "abf")
def test_an_image_that_lacks_one_of_three_raters_is_named(form, name, tmp_path):
    for k in range(3):
        for image in "abcdef":
            write_image(tmp_path / "images" / f"{image}.png")
            write_mask(tmp_path / form.format(name=image, k=k))
    (tmp_path / form.format(name=name, k=1)).unlink()
    (problem,) = check(config("folder"), tmp_path).problems
    assert problem.startswith(f"{tmp_path / 'images' / name}.png has ")
    assert (
        "2 raters (0 and 2), but most images have 3 (0 and 1 and 2)" in problem or "masks in 2 of 3 folders" in problem
    )


def test_raters_may_be_sub_folders_of_masks(tmp_path):
    for rater in ("anna", "ben"):
        tree(tmp_path, *paths("images/{}.png", f"masks/{rater}/{{}}_mask.png"))
    assert data.load(config("folder"), tmp_path).train.masks.channels == 2
    (tmp_path / "masks/ben/c_mask.png").unlink()
    (problem,) = data.find(config("folder"), tmp_path).problems
    assert "c.png has 1 rater (anna), but most images have 2 (anna and ben)" in problem


def test_two_masks_of_one_image_and_number_are_refused(tmp_path):
    spots(tmp_path, "{name}_{k}.png", [2] * 6, apart=False)
    write_mask(tmp_path / "masks/a_01.png")
    assert any("a_01.png have one name and number" in one or "a_1.png have one name and number" in one
               for one in data.find(config("folder"), tmp_path).problems)  # fmt: skip


ANSWERS = {  # by name: what lies at the root, and words of the expected sentence, in order
    "isic16": (isic16, "{root} is in the layout isic16, not folder: `diffseg data check mine {root} data.layout=isic16` reads it"),
    "monuseg": (monuseg_tree, "data.layout=monuseg` reads it"),
    "lidc": (lambda root: tree(root, "P1/nodule-0/images/s.png", "P1/nodule-0/mask-0/s.png"), "data.layout=lidc` reads"),
    "brats": (lambda root: write_image(root / "B1/B1_flair.nii.gz.png"), "data.layout=brats data.channels=4` reads it"),
    "one level up": (lambda root: folder(root / "mine-1.0"), "{root} is no data set, but {root}/mine-1.0 is"),
    "isic16 one level up": (lambda root: isic16(root / "isic"), "`diffseg data check mine {root}/isic data.layout=isic16`"),
    "nothing": (lambda root: None, "has no folder images: a data set is images/ and masks/ .*it holds no files"),
    "something else": (lambda root: tree(root, *[f"{k}/x.png" for k in range(9)]),
                       "it holds 0/, 1/, 2/, 3/, 4/, 5/ and 3 more folders"),
    "pictures only": (lambda root: tree(root, "a.png", "b.png"), "it holds 2 .png files"),
    "no masks": (lambda root: tree(root, "images/a.png", "images/b.png"), "has no folder masks: .* it holds images/"),
    "images and another folder": (lambda root: tree(root, "images/a.png", "truth/b.png"),
                                  "has no folder masks: .* holds images/, truth/"),
    "two folders of masks": (lambda root: tree(root, "images/a.png", "labels/a.png", "gt/a.png"),
                             "has the folders labels and gt: rename"),
    "no test": (lambda root: tree(root, "train/images/a.png", "train/masks/a.png"), "has no folder test"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ANSWERS)
def test_the_error_for_a_root_in_no_layout_says_what_lies_there(kind, tmp_path):
    write, words = ANSWERS[kind]
    root = tmp_path / "root"
    root.mkdir()
    write(root)
    with pytest.raises(DataError) as raised:
        data.find(config("folder"), root)
    text = str(raised.value)
    assert "\n" not in text
    for word in words.format(root=root).split(".*"):
        assert word in text


def test_the_folders_of_the_medical_segmentation_decathlon_are_read(real_data):
    found = data.find(config("folder", channels=1), real_data / "hippocampus" / "Task04_Hippocampus")
    assert found.problems == ()
    assert len({record.group for record in found.records}) == 100


NAMES = [
    "case.00",
    "case.00.1",
    "a.b c",
    "é",
    "Ü bung",
    "日本",
    "x.nii",
    "a.png",
    "-1",
    "name with  blanks",
    "v1.2_3",
    "=1+1",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_of_images_masks_and_the_table_match_in_any_unicode_form(name, form, tmp_path):
    names = [name, *"uvwxy"]
    for one in names:
        write_image(tmp_path / "images" / f"{unicodedata.normalize(form, one)}.png")
        write_mask(tmp_path / "masks" / f"{unicodedata.normalize('NFC', one)}_mask.png")
    for extensions in (("", ".png") * 3, ("",) * 6, (".png",) * 6):
        lines = [
            f"{unicodedata.normalize('NFD', one)}{extension},{'test' if one in (name, 'u') else 'train'},é{one}\n"
            for one, extension in zip(names, extensions, strict=True)
        ]
        (tmp_path / "split.csv").write_text("name,split,group\n" + "".join(lines), encoding="utf-8")
        found = data.load(config("folder"), tmp_path)
        assert set(found.test.names) == {unicodedata.normalize("NFC", name), "u"}
        assert {record.group for record in found.test.records} == {f"é{unicodedata.normalize('NFC', name)}", "éu"}


def test_two_files_of_one_normalised_name_are_refused(tmp_path):
    tree(tmp_path, *paths("images/{}.png", "masks/{}.png"))
    for form in ("NFC", "NFD"):
        write_image(tmp_path / "images" / f"{unicodedata.normalize(form, 'é')}.png")
    write_mask(tmp_path / "masks" / "é.png")
    if len(os.listdir(tmp_path / "images")) == 7:
        pytest.skip("the file system composes names")
    (problem,) = data.find(config("folder"), tmp_path).problems
    assert "have one name" in problem


@pytest.mark.parametrize("place", ["images/a\udcff.png", "masks/a\udcff.png", "notes\udcff.txt", "\udcff/x.png"])
def test_names_that_are_not_utf8_are_refused(place, tmp_path):
    tree(tmp_path, *paths("images/{}.png", "masks/{}.png"))
    try:
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_bytes((tmp_path / "images/a.png").read_bytes())
    except OSError:
        pytest.skip("the file system takes no such names")
    for look in (check, data.load):
        with pytest.raises(DataError, match=r"\\xff.* has a name that is not UTF-8: rename it") as raised:
            look(config("folder"), tmp_path)
        str(raised.value).encode()


@given(st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=20))
def test_the_stem_is_the_name_without_its_extension(name):
    for extension in (".png", ".JPG", ".nii.gz", ".NII", ".tiff"):
        expected = unicodedata.normalize("NFC", name).strip()
        assert stem(name + extension) == expected
        assert stem(unicodedata.normalize("NFD", name) + extension) == expected


@given(
    st.sets(st.text("ab1_-.", min_size=1, max_size=6), min_size=1, max_size=8),
    st.sampled_from(["{}", "{}_mask", "{}_GT", "mask_{}", "{}-seg"]),
)
def test_pairing_gives_no_mask_to_two_images_and_finds_all(names, form):
    images = {name: [Path(f"{name}.png")] for name in names}
    masks = {form.format(name): [Path(f"{form.format(name)}.png")] for name in names}
    found = pair_masks(images, masks)
    given_to = [path for own in found.masks.values() for path in own.values()]
    assert len(given_to) == len(set(given_to)) == len(names)
    assert {name: list(own.values()) for name, own in found.masks.items()} == {
        name: masks[form.format(name)] for name in names
    }


@pytest.mark.parametrize("name", ["my data", "it's", "a;b", "$(x)"])
def test_commands_in_errors_can_be_pasted_whatever_the_folder_is_called(name, tmp_path):
    root = tmp_path / name
    isic16(root)
    with pytest.raises(DataError) as raised:
        data.find(config("folder"), root)
    command = shlex.split(str(raised.value).split("`")[1])
    assert command == ["diffseg", "data", "check", "mine", str(root), "data.layout=isic16"]
    assert f"`{shlex.join(command)}`" in str(raised.value)
    tree(root := tmp_path / "x" / name, *[f"images/{k}.png" for k in range(4)], "masks/3.png")
    with pytest.raises(DataError, match="and 2 more") as raised:
        data.examine(config("folder"), root)
    assert shlex.split(str(raised.value).split("`")[1]) == ["diffseg", "data", "check", "mine", str(root)]


@pytest.mark.parametrize(
    ("layout", "write", "words"),
    [
        (
            "isic16",
            folder,
            "is in the layout folder, not isic16: `diffseg data check mine {root} data.layout=folder` reads it",
        ),
        ("lidc", isic16, "is in the layout isic16, not lidc"),
        ("brats", monuseg_tree, "is in the layout monuseg, not brats"),
        ("monuseg", lambda root: monuseg_tree(root / "MoNuSeg"), "but {root}/MoNuSeg is, in the layout monuseg"),
    ],
)
def test_the_error_for_a_root_in_another_layout_names_that_layout(layout, write, words, tmp_path):
    write(tmp_path)
    with pytest.raises(DataError) as raised:
        data.find(config(layout), tmp_path)
    assert words.format(root=tmp_path) in str(raised.value)


PARTS = [
    "images",
    "masks",
    "train",
    "test",
    "Labels",
    "img",
    "a",
    "p1",
    "benign",
    "split.csv",
    "masks_0",
    "__MACOSX",
    "\u00e9",
]
FILES = [
    "a.png",
    "b.png",
    "a_mask.png",
    "a_0.png",
    "a_1_mask.png",
    "mask_b.PNG",
    "split.csv",
    "a.nii.gz",
    ".a.png",
    "a.png ",
    "images",
]


@hypothesis.settings(max_examples=100)
@given(st.lists(st.tuples(st.lists(st.sampled_from(PARTS), max_size=3), st.sampled_from(FILES)), max_size=8))
def test_any_tree_of_files_is_read_or_refused_with_a_data_error(files):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "root")
        root.mkdir()
        for parts, name in files:
            path = root.joinpath(*parts, name)
            with contextlib.suppress(OSError):  # a file where a folder is needed, or the other way round
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"name,group\na,p1\n" if name == "split.csv" else b"")
        with contextlib.suppress(DataError):
            found = data.find(config("folder"), root)
            assert {record.image for record in found.records} or found.problems
            assert all(len(set(record.annotations)) == len(record.annotations) for record in found.records)
