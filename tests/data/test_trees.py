"""Random trees of good and bad files: each loads, or is refused with one sentence that names a bad file."""

import shutil
import tempfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diffseg import data
from diffseg.config import Data
from diffseg.data.check import check
from diffseg.errors import DataError

RNG = np.random.default_rng(0)
SIZE = (18, 20)


def picture(path, channels=3, dtype=np.uint8, size=SIZE):
    shape = size if channels == 1 else (*size, channels)
    Image.fromarray(RNG.integers(0, 255, shape).astype(dtype)).save(path)


def mask(path, size=SIZE):
    pixels = np.zeros(size, np.uint8)
    pixels[3:9, 4:12] = 255
    Image.fromarray(pixels).save(path)


def xml(path):
    vertices = "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in ((4, 3), (12, 3), (12, 9)))
    path.write_text(f"<A><Regions><Region><Vertices>{vertices}</Vertices></Region></Regions></A>")


def volume(path, labels=False, shape=(*SIZE, 2)):
    numbers = RNG.integers(0, 2 if labels else 900, shape).astype(np.uint8 if labels else np.int16)
    numbers[0, 0] = labels  # so that no volume of labels is empty
    nibabel.save(nibabel.Nifti1Image(numbers, np.eye(4)), path)


def absent(path):
    path.unlink()


def empty(path):
    path.write_bytes(b"")


def text(path):
    path.write_text("hello " * 30)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def folder(path):
    path.unlink()
    path.mkdir()


def larger(path):
    if path.name.endswith(".nii.gz"):
        volume(path, labels="mask" in str(path), shape=(25, 25, 2))
    elif path.suffix == ".xml":
        xml(path)  # an outline has no size
    else:
        mask(path, (25, 25))


def noise(path):
    path.write_bytes(RNG.bytes(400))


SPOIL = {None: lambda path: None} | {
    spoil.__name__: spoil for spoil in (absent, empty, text, cut, folder, larger, noise)
}


def pictures_tree(root, k, split):
    paths = root / split / "images" / f"{k}.png", root / split / "masks" / f"{k}.png"
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
    picture(paths[0])
    mask(paths[1])
    return paths


def raters_tree(root, k, split):
    paths = [root / split / kind / f"{k}.png" for kind in ("images", "masks_0", "masks_1")]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        (picture if path.parent.name == "images" else mask)(path)
    return paths


def volumes_tree(root, k, split):
    paths = [root / split / kind / f"{k}.nii.gz" for kind in ("images", "masks")]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        volume(path, labels=path.parent.name == "masks")
    return paths


def isic_tree(root, k, split):
    part = {"train": "Training", "test": "Test"}[split]
    image = root / f"ISBI2016_ISIC_Part1_{part}_Data" / f"ISIC_{k}.jpg"
    truth = root / f"ISBI2016_ISIC_Part1_{part}_GroundTruth" / f"ISIC_{k}_Segmentation.png"
    for path in (image, truth):
        path.parent.mkdir(parents=True, exist_ok=True)
    picture(image)
    mask(truth)
    return image, truth


def monuseg_tree(root, k, split):
    folders = {
        "train": ("MoNuSeg 2018 Training Data/Tissue Images", "MoNuSeg 2018 Training Data/Annotations"),
        "test": ("MoNuSegTestData", "MoNuSegTestData"),
    }[split]
    image, truth = root / folders[0] / f"{k}.tif", root / folders[1] / f"{k}.xml"
    for path in (image, truth):
        path.parent.mkdir(parents=True, exist_ok=True)
    picture(image)
    xml(truth)
    return image, truth


def lidc_tree(root, k, split):
    base = root / split
    image = base / "images" / f"LIDC-IDRI-{split}{k}" / "z-1.0_c0.png"
    truths = [base / "gt" / f"LIDC-IDRI-{split}{k}" / f"z-1.0_c0_l{rater}.png" for rater in range(4)]
    for path in (image, *truths):
        path.parent.mkdir(parents=True, exist_ok=True)
    picture(image, channels=1)
    for path in truths:
        mask(path)
    return image, *truths


TREES = {
    "pictures": ("folder", pictures_tree),
    "raters": ("folder", raters_tree),
    "volumes": ("folder", volumes_tree),
    "isic16": ("isic16", isic_tree),
    "monuseg": ("monuseg", monuseg_tree),
    "lidc": ("lidc", lidc_tree),
}
FAULTS = st.dictionaries(
    st.tuples(st.integers(0, 2), st.sampled_from(["train", "test"]), st.integers(0, 4)),
    st.sampled_from([name for name in SPOIL if name]),
    max_size=3,
)


def refusal(function, *arguments):
    """Return the function's result, or the sentence of its DataError."""
    try:
        return function(*arguments)
    except DataError as error:
        return str(error)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kind", TREES)
@settings(max_examples=25)
@given(faults=FAULTS)
def test_a_tree_loads_or_is_refused_with_the_name_of_a_bad_file(kind, faults):
    layout, make = TREES[kind]
    root = Path(tempfile.mkdtemp())
    try:
        spoilt = []
        for split in ("train", "test"):
            for k in range(3):
                paths = make(root, k, split)
                for (image, where, which), fault in faults.items():
                    if (image, where) == (k, split) and which < len(paths):
                        SPOIL[fault](paths[which])
                        spoilt += paths  # the sentence on a missing mask names its image
        config = Data(name="mine", layout=layout, size=16)
        names = {part for path in spoilt for part in (path.name, path.parent.name, path.name.split(".")[0])}
        found = refusal(data.load, config, root)
        if isinstance(found, str):
            assert "\n" not in found
            assert any(name in found for name in names), (found, spoilt)
            problems = refusal(lambda: check(config, root).problems)
            assert found == problems or any(found.startswith(problem) for problem in problems)
        else:
            assert found.train.masks.values.any()
            assert check(config, root).problems == ()
    finally:
        shutil.rmtree(root)
