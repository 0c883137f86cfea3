"""Layouts of data sets, on small files: what is decoded, what is refused, and what is cached. Real data if they are there."""

import multiprocessing
import os
import re

import numpy as np
import pytest
import torch
from PIL import Image

from diffseg import data
from diffseg.config import Data
from diffseg.data import monuseg
from diffseg.data.check import check
from diffseg.data.dataset import choose_records
from diffseg.errors import DataError

RNG = np.random.default_rng(0)


def write_image(path, size=(20, 24)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 255, (*size, 3), dtype=np.uint8)).save(path)


def write_mask(path, size=(20, 24), values=(0, 255)):
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.full(size, values[0], np.uint8)
    mask[4:12, 6:18] = values[-1]
    Image.fromarray(mask).save(path)


def write_xml(path, polygons=(((6, 4), (17, 4), (17, 11), (6, 11)),)):
    path.parent.mkdir(parents=True, exist_ok=True)
    vertices = ["".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in polygon) for polygon in polygons]
    regions = "".join(f"<Region><Vertices>{inner}</Vertices></Region>" for inner in vertices)
    path.write_text(f"<Annotations><Annotation><Regions>{regions}</Regions></Annotation></Annotations>")


def isic16(root):
    for split, count in (("Training", 3), ("Test", 2)):
        for k in range(count):
            write_image(root / f"ISBI2016_ISIC_Part1_{split}_Data" / f"ISIC_{split}{k}.jpg")
            write_mask(root / f"ISBI2016_ISIC_Part1_{split}_GroundTruth" / f"ISIC_{split}{k}_Segmentation.png")


def monuseg_tree(root):
    for k in range(3):
        write_image(root / "MoNuSeg 2018 Training Data/Tissue Images" / f"TCGA-{k}.tif")
        write_xml(root / "MoNuSeg 2018 Training Data/Annotations" / f"TCGA-{k}.xml")
    for k in range(2):
        write_image(root / "MoNuSegTestData" / f"TCGA-T{k}.tif")
        write_xml(root / "MoNuSegTestData" / f"TCGA-T{k}.xml")


def folder(root):
    for split, count in (("train", 3), ("test", 2)):
        for k in range(count):
            write_image(root / split / "images" / f"{split}{k}.png")
            write_mask(root / split / "masks" / f"{split}{k}.png", values=(0, 1))


IMAGES = {"isic16": "*.jpg", "monuseg": "*.tif", "folder": "images/*"}
TREES = {"isic16": isic16, "monuseg": monuseg_tree, "folder": folder}
MASK = np.zeros((20, 24), bool)
MASK[4:12, 6:18] = True


def config(layout, **settings):
    return Data(**{"name": "mine", "layout": layout, "size": 16, **settings})


@pytest.fixture(params=TREES)
def tree(request, tmp_path):
    TREES[request.param](tmp_path / "root")
    return request.param, tmp_path / "root"


def first(root, pattern):
    return sorted(root.rglob(pattern))[0]


def test_every_layout_is_decoded_to_the_same_form(tree):
    layout, root = tree
    found = data.load(config(layout), root)
    for split, count in ((found.train, 3), (found.test, 2)):
        assert [image.shape for image in split.images] == [(3, 16, 16)] * count
        assert [mask.shape for mask in split.masks] == [(1, 16, 16)] * count
        assert split.images.values.dtype == split.masks.values.dtype == torch.uint8
        assert sorted(set(split.masks.values.tolist())) == [0, 1]
        assert split.sizes.tolist() == [[16, 16]] * count
        assert list(split.names) == sorted(split.names)
        assert float(split.masks.values.float().mean()) == pytest.approx(MASK.mean(), abs=0.03)


def test_crops_keep_every_pixel(tree):
    layout, root = tree
    found = data.load(config(layout, fit="crop"), root)
    assert found.train.sizes.tolist() == [[20, 24]] * 3
    assert torch.equal(found.train.masks[0][0].bool(), torch.from_numpy(MASK))
    larger = data.load(config(layout, fit="crop", size=22), root)  # higher than the images: mirrored at the bottom
    assert larger.test.sizes.tolist() == [[22, 24]] * 2
    assert torch.equal(larger.test.images[0][:, 20], larger.test.images[0][:, 19])
    half = data.load(config(layout, fit="crop", size=8, scale=0.5), root)
    assert half.train.sizes.tolist() == [[10, 12]] * 3


def test_limits_choose_the_same_images_every_time(tree):
    layout, root = tree
    few = data.load(config(layout, train_images=2, test_images=1), root)
    assert (len(few.train.names), len(few.test.names)) == (2, 1)
    assert few.train.names == data.load(config(layout, train_images=2), root).train.names


def test_check_reports_counts_sizes_and_foreground(tree):
    layout, root = tree
    found = check(config(layout), root)
    assert found.problems == ()
    assert (found.splits["train"].images, found.splits["test"].images) == (3, 2)
    assert found.splits["train"].smallest == found.splits["train"].largest == (20, 24)
    assert found.splits["train"].foreground[1] == pytest.approx(MASK.mean())
    assert found.splits["train"].objects == 1
    assert found.splits["train"].raters == 1
    assert [suspicion.partition(":")[0] for suspicion in found.suspicions] == ["only 2 test images"]
    assert found.sheet.width > 3 * 200
    assert "No problem found" in str(found)


def bad_missing_mask(root, layout):
    path = first(root, {"isic16": "*_Segmentation.png", "monuseg": "*.xml", "folder": "masks/*"}[layout])
    path.unlink()
    return "has no mask"


def bad_zero_bytes(root, layout):
    first(root, IMAGES[layout]).write_bytes(b"")
    return "is empty"


def bad_text(root, layout):
    first(root, IMAGES[layout]).write_text("hello " * 50)
    return "is not an image"


def bad_truncated(root, layout):
    path = first(root, IMAGES[layout])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return "cannot be decoded|is not an image"


def bad_link(root, layout):
    path = first(root, IMAGES[layout])
    path.unlink()
    path.symlink_to(root / "nowhere.png")
    return "cannot be read"


def bad_depth(root, layout):
    if layout == "isic16":
        pytest.skip("JPEG has 8 bits")
    pixels = RNG.normal(0, 1000, (20, 24)).astype(np.float32)
    Image.fromarray(pixels).save(first(root, IMAGES[layout]), format="TIFF")
    return "more than 16 bits"


def bad_twin(root, layout):
    path = first(root, IMAGES[layout])
    path.with_suffix(".bmp").write_bytes(path.read_bytes())
    return "have one name"


def bad_size(root, layout):
    if layout == "monuseg":
        pytest.skip("polygons have no size of their own")
    write_mask(first(root, {"isic16": "*_Segmentation.png", "folder": "masks/*"}[layout]), (20, 25))
    return "25 × 20 px, but its image is 24 × 20"


def bad_values(root, layout, values=(0, 7), dtype=np.uint8):
    if layout == "monuseg":
        pytest.skip("polygons have no values")
    mask = np.full((20, 24), values[0], dtype)
    mask[4:12, 6:18] = values[-1]
    Image.fromarray(mask).save(first(root, {"isic16": "*_Segmentation.png", "folder": "masks/*"}[layout]))
    return f"has the values {', '.join(map(str, values))}:"


def bad_two_grays(root, layout):
    return bad_values(root, layout, (1, 255))


def bad_constant_gray(root, layout):
    return bad_values(root, layout, (7,))


def bad_deep_values(root, layout):
    return bad_values(root, layout, (0, 65535), np.uint16)


def bad_no_region(root, layout):
    if layout != "monuseg":
        pytest.skip("has no XML")
    write_xml(first(root, "*.xml"), polygons=())
    return "has no region"


def bad_xml(root, layout, spoilt=lambda text: text[:40]):
    if layout != "monuseg":
        pytest.skip("has no XML")
    path = first(root, "*.xml")
    path.write_text(spoilt(path.read_text()))
    return "is not an annotation"


def bad_encoding(root, layout):
    return bad_xml(root, layout, lambda text: f'<?xml version="1.0" encoding="nonsense"?>{text}')


def bad_entity(root, layout):
    return bad_xml(root, layout, lambda text: f'<!DOCTYPE a [<!ENTITY lol "lol">]>{text}')


def bad_coordinate(root, layout):
    return bad_xml(root, layout, lambda text: text.replace('X="6"', 'X="nan"', 1))


def bad_folder(root, layout):
    moved = {"isic16": "ISBI2016_ISIC_Part1_Test_GroundTruth", "monuseg": "MoNuSegTestData", "folder": "test/masks"}[
        layout
    ]
    (root / moved).rename(root / "elsewhere")
    return "has no folder"


BAD = [value for name, value in list(globals().items()) if name.startswith("bad_")]


@pytest.mark.parametrize("spoil", BAD, ids=lambda spoil: spoil.__name__)
@pytest.mark.parametrize("cache", [None, "cache"])
def test_a_bad_file_is_refused_in_one_sentence_that_names_it(tree, spoil, cache, recwarn, tmp_path):
    layout, root = tree
    words = spoil(root, layout)
    with pytest.raises(DataError, match=words) as error:
        data.load(config(layout), root, cache and tmp_path / cache)
    assert str(root) in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(recwarn)
    if spoil is not bad_folder:
        found = check(config(layout), root)
        assert len(found.problems) == 1
        assert found.problems[0] in str(error.value) or str(error.value) in found.problems[0]


def test_pipes_among_the_files_do_not_hang(tree):
    layout, root = tree
    for pattern in (IMAGES[layout], {"isic16": "*_Segmentation.png", "monuseg": "*.xml", "folder": "masks/*"}[layout]):
        path = first(root, pattern)
        path.unlink()
        os.mkfifo(path)
    with pytest.raises(DataError, match="is a pipe"):
        data.load(config(layout), root)
    assert all("is a pipe" in problem for problem in check(config(layout), root).problems)


def test_a_missing_root_says_how_to_give_it(tmp_path):
    with pytest.raises(DataError, match="--data mine=ROOT"):
        data.load(config("folder"), None)
    with pytest.raises(DataError, match=r"nowhere.*not a folder"):
        data.load(config("folder"), tmp_path / "nowhere")


def test_synthetic_data_cannot_be_checked(tmp_path):
    with pytest.raises(DataError, match=r"layout synthetic.*data\.layout=folder"):
        check(config("synthetic"), tmp_path)


@pytest.mark.parametrize("limit", [100, 300])  # images have 480: Pillow itself refuses above twice the limit only
def test_a_huge_image_is_refused(tree, limit, monkeypatch, recwarn):
    layout, root = tree
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(DataError, match=f"more than {limit} pixels"):
        data.load(config(layout), root)
    assert not list(recwarn)


@pytest.mark.parametrize(("values", "share"), [((0,), 0), ((1,), 1), ((255,), 1), ((0, 1), 0.2), ((0, 255), 0.2)])
def test_masks_of_one_or_two_values_are_read(tmp_path, values, share):
    folder(tmp_path)
    write_mask(tmp_path / "train/masks/train0.png", values=values)
    masks = data.load(config("folder", fit="crop"), tmp_path).train.masks
    assert float(masks[0].float().mean()) == pytest.approx(share)


def test_a_folder_without_splits_is_split_by_name_and_seed(tmp_path):
    for k in range(40):
        write_image(tmp_path / "images" / f"{k}.png")
        write_mask(tmp_path / "masks" / f"{k}.png")
    found = data.load(config("folder"), tmp_path)
    test = set(found.test.names)
    assert (len(found.train.names), len(test)) == (32, 8)
    assert set(data.load(config("folder", split_seed=1), tmp_path).test.names) != test
    write_image(tmp_path / "images" / "new.png")
    write_mask(tmp_path / "masks" / "new.png")
    assert len(set(data.load(config("folder"), tmp_path).test.names) - test) <= 1


def test_check_lists_every_fault(tmp_path):
    folder(tmp_path)
    for split, spoil in (("train", bad_missing_mask), ("test", bad_zero_bytes), ("train", bad_two_grays)):
        spoil(tmp_path / split, "folder")
    write_image(tmp_path / "test/images/extra.png")
    assert len(check(config("folder"), tmp_path).problems) == 4
    with pytest.raises(DataError, match=r"and 1 more: `diffseg data check mine .*` lists them"):
        data.load(config("folder"), tmp_path)


def test_nuclei_are_distinguished_and_degenerate_ones_left_out(tmp_path):
    squares = [
        ((2, 2), (5, 2), (5, 5), (2, 5)),
        ((10, 10), (14, 10), (14, 14), (10, 14)),
        ((1, 1), (2, 2)),
        ((-5, -5), (1, -5), (1, 1), (-5, 1)),
    ]
    write_xml(tmp_path / "a.xml", squares)
    found = monuseg.draw_instances(tmp_path / "a.xml", (16, 20))
    assert found.shape == (16, 20)
    assert found.dtype == np.int32
    assert {k: int((found == k).sum()) for k in (1, 2, 3)} == {1: 16, 2: 25, 3: 4}


def entries(folder):
    """Return the entries of a cache, whole or not; its other files are locks."""
    return [path for path in folder.iterdir() if path.is_dir()]


def test_the_cache_equals_decoding_and_notices_changes(tree, tmp_path):
    layout, root = tree
    fresh = data.load(config(layout), root)
    for _ in range(2):
        cached = data.load(config(layout), root, tmp_path / "cache")
        assert cached.digest == fresh.digest
        assert torch.equal(cached.test.images.values, fresh.test.images.values)
    assert len(entries(tmp_path / "cache")) == 1
    write_image(first(root, IMAGES[layout]))
    assert data.load(config(layout), root, tmp_path / "cache").digest != fresh.digest


def drawn(root):
    """Write a folder whose splits and groups are given by split.csv."""
    for k in range(10):
        write_image(root / "images" / f"{k}.png")
        write_mask(root / "masks" / f"{k}.png")
    (root / "split.csv").write_text("name,split,group\n" + "".join(f"{k},,g{k // 2}\n" for k in range(10)))


def rewrite_groups(root):
    (root / "split.csv").write_text("name,split,group\n" + "".join(f"{k},,h{k // 2}\n" for k in range(10)))


def rewrite_splits(root):
    lines = (f"{k},{'test' if k < 5 else 'train'},\n" for k in range(10))
    (root / "split.csv").write_text("name,split,group\n" + "".join(lines))


def spoil_unused(root):
    """Change a mask that the limits leave out, but that still helps to decide the foreground."""
    records = choose_records(Data(name="folder", layout="folder", size=16, train_images=3, test_images=2), root)
    used = {path for chosen in records.values() for record in chosen for path in record.files}
    write_mask(next(path for path in sorted((root / "masks").iterdir()) if path not in used), values=(0, 7))


def add_linked(root):
    """Add an image to a folder that the root links to."""
    write_image(root / "images" / "new.png")
    write_mask(root / "masks" / "new.png")
    with (root / "split.csv").open("a") as table:
        table.write("new,train,\n")


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("change", [rewrite_groups, rewrite_splits, spoil_unused, add_linked])
def test_the_cache_notices_changes_of_splits_groups_and_the_foreground(tmp_path, change, linked):
    root, cache, small = tmp_path / "root", tmp_path / "cache", config("folder").model_copy(
        update={"train_images": 3, "test_images": 2}
    )  # fmt: skip
    drawn(tmp_path / "real" if linked else root)
    if linked:
        root.mkdir()
        for name in ("images", "masks", "split.csv"):
            (root / name).symlink_to(tmp_path / "real" / name)
    data.load(small, root, cache)
    change(root)
    try:
        fresh = data.load(small, root)
    except DataError as error:
        with pytest.raises(DataError, match=re.escape(str(error))):
            data.load(small, root, cache)
        return
    cached = data.load(small, root, cache)
    assert (cached.digest, cached.train.groups, cached.test.names) == (
        fresh.digest,
        fresh.train.groups,
        fresh.test.names,
    )


def test_a_store_and_other_files_in_the_data_set_do_not_outdate_its_cache(tmp_path, caplog):
    folder(tmp_path)
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "round").symlink_to(tmp_path)
    (tmp_path / "results").mkdir()
    (tmp_path / "log.txt").write_text("started")
    for k in range(3):
        data.load(config("folder"), tmp_path, tmp_path / "results" / "cache")
        (tmp_path / "results" / f"study-{k}").mkdir()
        (tmp_path / "log.txt").write_text(f"line {k}")
    assert "built anew" not in caplog.text


DAMAGE = {
    "empty": lambda content: b"",
    "short": lambda content: content[:-1],
    "flipped": lambda content: content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
    "of another kind": lambda content: b"[]",
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("file", ["index.json", "train-images.npy", "test-masks.npy"])
def test_a_damaged_cache_is_rebuilt(tmp_path, file, damage):
    folder(tmp_path / "root")
    expected = data.load(config("folder"), tmp_path / "root")
    data.load(config("folder"), tmp_path / "root", tmp_path / "cache")
    (entry,) = entries(tmp_path / "cache")
    content = (entry / file).read_bytes()
    (entry / file).write_bytes(DAMAGE[damage](content))
    found = data.load(config("folder"), tmp_path / "root", tmp_path / "cache")
    assert found.digest == expected.digest
    assert torch.equal(found.train.images.values, expected.train.images.values)
    assert torch.equal(found.test.masks.values, expected.test.masks.values)
    assert (entry / file).read_bytes() == content


def test_a_killed_build_leaves_no_entry(tmp_path, monkeypatch):
    folder(tmp_path / "root")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(np, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            data.load(config("folder"), tmp_path / "root", tmp_path / "cache")
    expected = data.load(config("folder"), tmp_path / "root").digest
    for _ in range(2):
        assert data.load(config("folder"), tmp_path / "root", tmp_path / "cache").digest == expected


def test_writing_to_loaded_tensors_does_not_change_the_cache(tmp_path):
    folder(tmp_path / "root")
    for _ in range(3):
        found = data.load(config("folder"), tmp_path / "root", tmp_path / "cache")
        assert found.train.images.values.any()
        found.train.images.values.zero_()


def _load(arguments):
    root, cache = arguments
    return data.load(config("folder"), root, cache).digest


@pytest.mark.slow
def test_two_processes_may_build_the_cache_at_once(tmp_path):
    folder(tmp_path / "root")
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        digests = pool.map(_load, [(tmp_path / "root", tmp_path / "cache")] * 2)
    assert len(set(digests)) == 1
    assert len(entries(tmp_path / "cache")) == 1


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", ["large", "many", "clusters"])
def test_synthetic_data_are_a_function_of_their_settings(kind):
    settings = Data(layout="synthetic", kind=kind, size=32, train_images=60, test_images=50)
    found = data.load(settings, None)
    assert found.digest == data.load(settings, None).digest
    fewer = data.load(settings.model_copy(update={"train_images": 20}), None).train.images
    assert all(torch.equal(a, b) for a, b in zip(fewer, found.train.images, strict=False))
    assert not any(torch.equal(a, b) for a, b in zip(found.train.images, found.test.images, strict=False))
    masks = torch.stack([*found.train.masks, *found.test.masks]).float()
    empty = float((masks.amax((1, 2, 3)) == 0).float().mean())
    assert 0.02 < empty < 0.25 if kind == "clusters" else empty == 0
    assert 0.05 < float(masks.mean()) < 0.3


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", ["large", "many", "clusters"])
def test_colour_alone_does_not_separate_synthetic_objects(kind):
    """The best threshold on the best channel, chosen on the test images themselves, stays well below a perfect IoU."""
    found = data.load(Data(layout="synthetic", kind=kind, size=32, train_images=1, test_images=40), None).test
    images, mask = (torch.stack(list(pixels)) for pixels in (found.images, found.masks))
    mask = mask[:, 0].bool()
    best = max(
        float((cut & mask).sum() / (cut | mask).sum())
        for channel in range(3)
        for level in range(20, 250, 10)
        for cut in (images[:, channel] < level, images[:, channel] > level)
    )
    assert 0.1 < best < 0.75


@pytest.mark.parametrize(
    ("name", "layout", "counts"),
    [("isic16", "isic16", (806, 339)), ("monuseg", "monuseg", (13, 14)), ("tumour_clusters", "folder", (67, 31))],
)
def test_real_data_sets_are_listed_completely(real_data, name, layout, counts):
    found = data.find(config(layout), real_data / name)
    assert found.problems == ()
    assert tuple(sum(record.split == split for record in found.records) for split in ("train", "test")) == counts
    sample = found.records[0].read()
    assert sample.image.shape[:2] == sample.masks.shape[1:]
    assert 0 < sample.masks.mean() < 1
