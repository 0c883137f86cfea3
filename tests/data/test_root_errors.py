"""What the error says for a root that cannot be read in its layout, and that any tree of files is read or refused."""

import contextlib
import shlex
import tempfile
from pathlib import Path

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_data import config, folder, isic16, monuseg_tree, write_image
from test_own_folders import tree

from diffseg import data
from diffseg.errors import DataError

ANSWERS = {  # by name: what lies at the root, and words of the expected sentence, in order
    "isic16": (isic16, "{root} is in the layout isic16, not folder: `diffseg data check mine {root} data.layout=isic16` reads it"),
    "monuseg": (monuseg_tree, "data.layout=monuseg` reads it"),
    "lidc": (lambda root: tree(root, "P1/nodule-0/images/s.png", "P1/nodule-0/mask-0/s.png"), "data.layout=lidc` reads"),
    "brats": (lambda root: write_image(root / "B1/B1_flair.nii.gz.png"), "data.layout=brats data.channels=4` reads it"),
    "one level up": (lambda root: folder(root / "mine-1.0"), "{root} is no data set, but {root}/mine-1.0 is"),
    "isic16 one level up": (lambda root: isic16(root / "isic"), "`diffseg data check mine {root}/isic data.layout=isic16`"),
    "several of them": (lambda root: tree(root, *(f"P{k}/images/{k}.png" for k in range(3)), "P1/masks/1.png"),
                        "has no folder images: .*in a folder for each patient; it holds P0/, P1/, P2/"),
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
