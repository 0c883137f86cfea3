"""The objects of a split: which object each pixel belongs to, where the annotations tell."""

import numpy as np
import pytest
import torch
from PIL import Image
from test_data import config, write_image, write_xml

from diffseg import data
from diffseg.data import monuseg
from diffseg.data.check import check
from diffseg.data.records import Record
from diffseg.errors import DataError

SIZE = (20, 24)
BOXES = [(0, 4, 0, 4), (4, 8, 0, 4), (12, 19, 10, 22)]  # of three objects: the first two touch


def draw(*boxes, value=255):
    """Return a mask with boxes of rows and columns."""
    mask = np.zeros(SIZE, np.uint8)
    for top, bottom, left, right in boxes:
        mask[top:bottom, left:right] = value
    return mask


def objects_of(split):
    """Return the objects of the first image of a split, [H, W]."""
    return split.instances[0][0].numpy()


@pytest.fixture
def files(tmp_path):
    """A data set of four images whose objects lie in a file each."""
    for name in "abcd":
        write_image(tmp_path / "images" / f"{name}.png")
        (tmp_path / "masks" / name).mkdir(parents=True)
        for k, box in enumerate(BOXES):
            Image.fromarray(draw(box)).save(tmp_path / "masks" / name / f"{k}.png")
    return tmp_path


def test_objects_in_a_file_each_are_kept(files, tmp_path):
    for _ in range(2):
        found = data.load(config("folder", objects=True, fit="crop", size=8), files, tmp_path / "store/cache").train
        wanted = sum(draw(box, value=k) for k, box in enumerate(BOXES, 1))
        assert found.instances.values.dtype == torch.uint16
        assert np.array_equal(objects_of(found), wanted)


@pytest.mark.parametrize("size", [8, 16, 40])
@pytest.mark.parametrize("fit", ["resize", "crop"])
def test_objects_follow_the_mask_through_resizing_cropping_and_selection(files, fit, size):
    found = data.load(
        config("folder", objects=True, fit=fit, size=size, scale=0.7 if fit == "crop" else 1), files
    ).train
    found = found.subset(torch.tensor([1, 0]))
    if fit == "crop":
        found = found.crop(torch.zeros(2, 2, dtype=torch.long), size)
    for mask, objects in zip(found.masks, found.instances, strict=True):
        assert torch.equal(mask.bool(), objects != 0)
        assert {1, 2} <= set(np.unique(objects.numpy()).tolist()) <= {0, 1, 2, 3}


def test_objects_are_read_again_at_full_size(files):
    found = data.load(config("folder", objects=True), files).train
    assert np.array_equal(found.record(0).read_instances()[0] > 0, found.record(0).read_masks()[0])


def test_polygons_are_objects(tmp_path):
    corners = [[(left, top), (right, top), (right, bottom), (left, bottom)] for top, bottom, left, right in BOXES]
    write_xml(tmp_path / "a.xml", corners)
    write_image(tmp_path / "a.tif")
    sample = monuseg.Outlined("a", "train", tmp_path / "a.tif", (tmp_path / "a.xml",)).read()
    assert sample.instances.dtype == np.uint16
    assert np.array_equal(sample.instances[0], monuseg.draw_instances(tmp_path / "a.xml", SIZE))
    assert np.array_equal(sample.instances > 0, sample.masks)


def test_masks_of_raters_and_single_masks_have_no_objects(files, tmp_path):
    """Nothing is stored for them, so that their cache and their digest are what they were."""
    split = data.load(config("folder", objects=False), files, tmp_path / "store/cache").train
    assert split.instances is None
    assert not list((tmp_path / "store").rglob("*-instances.npy"))
    assert split.subset(torch.tensor([0])).instances is None
    single = Record("a", "train", files / "images/a.png", (files / "masks/a/0.png",))
    assert single.read().instances is None


def write_maps(root, save, count=4):
    """Write images whose masks have another value for each object."""
    for k, name in enumerate("abcdef"[:count]):
        write_image(root / "images" / f"{name}.png")
        (root / "masks").mkdir(exist_ok=True)
        save(
            root / "masks" / name,
            sum(draw(box, value=1).astype(np.int32) * (3 * j + k + 1) for j, box in enumerate(BOXES)),
        )


def save_gray(path, numbers):
    Image.fromarray(numbers.astype(np.uint8)).save(f"{path}.png")


def save_deep(path, numbers):
    Image.fromarray((1000 * numbers).astype(np.uint16)).save(f"{path}.png")


def save_palette(path, numbers):
    image = Image.fromarray(numbers.astype(np.uint8))
    image.putpalette(np.random.default_rng(0).integers(0, 255, 768, dtype=np.uint8).tobytes())
    image.save(f"{path}.png")


def save_colours(path, numbers):
    colours = np.random.default_rng(1).integers(0, 255, (256, 3), dtype=np.uint8)
    colours[:, 0] = range(256)  # by which objects are numbered
    colours[0] = 0
    Image.fromarray(colours[numbers]).save(f"{path}.png")


@pytest.mark.parametrize("save", [save_gray, save_deep, save_palette, save_colours])
@pytest.mark.parametrize("rule", [(), "nonzero"])
def test_the_values_of_a_map_are_objects(save, rule, tmp_path):
    write_maps(tmp_path / "root", save)
    settings = config("folder", objects=True, fit="crop", size=8, foreground=rule)
    for _ in range(2):
        found = data.load(settings, tmp_path / "root", tmp_path / "store/cache")
        wanted = sum(draw(box, value=k) for k, box in enumerate(BOXES, 1))
        assert np.array_equal(objects_of(found.train), wanted)
        assert found.train.masks.channels == 1
        assert torch.equal(found.train.masks[0] != 0, found.train.instances[0] != 0)
        assert set(found.train.objects) == {3}
    report = check(settings, tmp_path / "root")
    assert (report.problems, report.splits["train"].objects) == ((), 3)


@pytest.mark.parametrize(
    "settings", [{"foreground": (1, 2)}, {"classes": {"a": [1, 4, 7], "b": [2, 3, 5, 6, 8, 9, 10]}}]
)
def test_values_that_are_classes_are_no_objects(settings, tmp_path):
    write_maps(tmp_path, save_gray)
    assert data.load(config("folder", objects=True, **settings), tmp_path).train.instances is None


def test_the_objects_of_a_binary_mask_are_not_known(tmp_path):
    for name in "abcd":
        write_image(tmp_path / "images" / f"{name}.png")
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(draw(*BOXES)).save(tmp_path / "masks" / f"{name}.png")
    found = data.load(config("folder", objects=True, fit="crop"), tmp_path).train
    assert found.instances is None
    assert set(found.objects) == {2}  # connected parts


def test_too_many_objects_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("diffseg.data.numbering.MAX_OBJECTS", 2)
    write_maps(tmp_path, save_gray)
    with pytest.raises(DataError, match=r"masks/\w.png has 3 objects: at most 2 are possible"):
        data.load(config("folder", objects=True), tmp_path)


def test_maps_of_objects_are_asked_about(tmp_path):
    write_maps(tmp_path, save_gray)
    with pytest.raises(DataError, match=r"or, if each value of a mask is an object, set data\.objects=true"):
        data.load(config("folder"), tmp_path)
