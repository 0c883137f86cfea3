"""Contents of data sets: ISIC16's Part 3B, raters, split tables, palettes, 16 bits, volumes; and the scaling of images."""

import subprocess
import sys

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from test_data import config, entries, folder, isic16, write_image, write_mask

from diffseg import data, trial
from diffseg.config import Config
from diffseg.data import cache
from diffseg.data.check import check
from diffseg.data.scaling import Scaling
from diffseg.errors import DataError
from diffseg.training.batches import Batches

RNG = np.random.default_rng(0)


def part3b(root, together):
    """Write the challenge's Part 3B: images beside their masks, in one folder for each split or for both."""
    for split, count in (("Training", 3), ("Test", 2)):
        place = root if together else root / f"ISBI2016_ISIC_Part3B_{split}_Data"
        names = [f"ISIC_{split}{k}" for k in range(count)]
        for name in names:
            write_image(place / f"{name}.jpg")
            write_mask(place / f"{name}_Segmentation.png")
        lines = [f"{name},benign" for name in names] if together else [",img,seg"]
        if not together:
            lines += [f"{k},{place.name}/{n}.jpg,{place.name}/{n}_Segmentation.png" for k, n in enumerate(names)]
        (root / f"ISBI2016_ISIC_Part3B_{split}_GroundTruth.csv").write_text("\n".join(lines))


@pytest.mark.parametrize("together", [True, False])
def test_part_3b_of_isic16_is_read_like_part_1(together, tmp_path):
    part3b(tmp_path, together)
    found = data.load(config("isic16"), tmp_path)
    assert found.train.names == ("ISIC_Training0", "ISIC_Training1", "ISIC_Training2")
    assert found.test.names == ("ISIC_Test0", "ISIC_Test1")
    next(tmp_path.rglob("ISIC_Test1.jpg")).unlink()
    next(tmp_path.rglob("ISIC_Test1_Segmentation.png")).unlink()
    with pytest.raises(DataError, match=r"Test_GroundTruth.csv lists ISIC_Test1, but .* has no such image"):
        data.load(config("isic16"), tmp_path)
    (tmp_path / "ISBI2016_ISIC_Part3B_Test_GroundTruth.csv").unlink()
    with pytest.raises(DataError, match=r"has no ISBI2016_ISIC_Part3B_Test_GroundTruth.csv"):
        data.load(config("isic16"), tmp_path)


@pytest.mark.parametrize("form", ["masks/{name}_{rater}.png", "masks_{rater}/{name}.png"])
def test_raters_are_numbered_files_or_numbered_folders(form, tmp_path):
    for split in ("train", "test"):
        for name in ("a", "b", "c_1"):
            write_image(tmp_path / split / "images" / f"{name}.png")
            for rater in range(3):
                write_mask(tmp_path / split / form.format(name=name, rater=rater), values=(0, 255) if rater else (0,))
    found = data.load(config("folder"), tmp_path)
    masks = torch.stack(list(found.train.masks))
    assert masks.shape[:2] == (3, 3)
    assert masks.any(-1).any(-1).tolist() == [[False, True, True]] * 3
    report = check(config("folder"), tmp_path)
    assert (report.splits["train"].raters, report.splits["train"].empty_masks, report.problems) == (3, 3, ())
    (tmp_path / "train" / form.format(name="b", rater=2)).unlink()
    with pytest.raises(DataError, match=r"train/images/b.png has (2 raters|masks in 2 of 3 folders)"):
        data.load(config("folder"), tmp_path)


def plain(root, names):
    for name in names:
        write_image(root / "images" / f"{name}.png")
        write_mask(root / "masks" / f"{name}.png")


def test_the_table_gives_the_splits(tmp_path):
    plain(tmp_path, "abcdef")
    (tmp_path / "split.csv").write_text(
        "name,split\n" + "".join(f"{n}.png,{'test' if n in 'bd' else 'val'}\n" for n in "abcdef")
    )
    assert data.load(config("folder"), tmp_path).test.names == ("b", "d")


@pytest.mark.parametrize(("strangers", "words"), [("x", "1 name that"), ("xyz", "3 names that")])
def test_names_of_the_table_that_no_image_has_are_reported(strangers, words, tmp_path):
    plain(tmp_path, "abcdef")
    lines = [f"{name},{'test' if name in 'bd' else 'train'}\n" for name in ["a", *strangers, *"bcdef"]]
    (tmp_path / "split.csv").write_text("name,split\n" + "".join(lines))
    found = check(config("folder"), tmp_path)
    assert found.problems == ()
    assert any(f"split.csv lists {words} no image has, such as x: correct" in one for one in found.suspicions)


def test_groups_of_the_table_stay_in_one_split(tmp_path):
    names = [f"p{patient}-{k}" for patient in range(10) for k in range(3)]
    plain(tmp_path, names)
    (tmp_path / "split.csv").write_text("name,group\n" + "".join(f"{name},{name[:2]}\n" for name in names))
    found = data.load(config("folder"), tmp_path)
    patients = [{name[:2] for name in split.names} for split in (found.train, found.test)]
    assert (len(patients[0]), len(patients[1]), patients[0] & patients[1]) == (8, 2, set())


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("name,split\na,train\nb,test\n", r"split.csv does not list c: "),
        ("name,split\na,train\nb,test\nc,dev\n", r"line 4 has the split 'dev': allowed are train, val and test"),
        ("name,split\na,train\na,test\nb,test\nc,train\n", r"line 3 names a again"),
        ("file,part\na,train\n", r"has the columns file, part: expected are name, and split or group"),
        (
            "name,split,group\na,train,p1\nb,test,p1\nc,train,p2\n",
            r"patients or groups are in both splits: p1; leave each in one",
        ),
    ],
)
def test_a_fault_in_the_table_is_reported_in_one_sentence(table, words, tmp_path):
    plain(tmp_path, "abc")
    (tmp_path / "split.csv").write_text(table)
    with pytest.raises(DataError, match=words):
        data.load(config("folder"), tmp_path)


def paint(path, mode):
    """Write a mask of three values: as grays, as entries of a palette, or as colours."""
    labels = np.zeros((20, 24), np.uint8)
    labels[2:6, 2:20], labels[8:16, 4:14] = 1, 2
    if mode == "gray":
        image = Image.fromarray(labels)
    elif mode == "deep":
        image = Image.fromarray(labels.astype(np.uint16) * 1000)
    else:
        image = Image.fromarray(labels, mode="P")
        image.putpalette([0, 0, 0, 0, 255, 0, 255, 0, 0])
        image = image.convert("RGB") if mode == "colour" else image
    image.save(path)


@pytest.mark.parametrize(
    ("mode", "foreground", "share"),
    [
        ("gray", [2], 80),
        ("gray", [1, 2], 152),
        ("palette", [1], 72),
        ("deep", [2000], 80),
        ("colour", ["#ff0000"], 80),
        ("colour", ["#ff0000", "#00ff00"], 152),
    ],
)
def test_masks_of_other_values_need_a_foreground(mode, foreground, share, tmp_path):
    folder(tmp_path)
    for path in tmp_path.rglob("masks/*.png"):
        paint(path, mode)
    settings = Config().with_leaves({"data.layout": "folder", "data.fit": "crop", "data.size": 16})
    with pytest.raises(DataError, match=r"has the values .*data\.foreground=\["):
        data.load(settings.data, tmp_path)
    named = settings.with_leaves({"data.foreground": foreground}).data
    assert int(data.load(named, tmp_path).train.masks[0].sum()) == share


def test_gray_images_are_stored_gray_and_repeated_as_inputs(tmp_path):
    folder(tmp_path)
    for path in tmp_path.rglob("images/*.png"):
        Image.open(path).convert("L").save(path)
    found = data.load(config("folder"), tmp_path).train
    images, _ = found.cut_windows(torch.tensor([0, 1]), torch.zeros(2, 2, dtype=torch.long), 16)
    assert images.shape == (2, 1, 16, 16)
    inputs = found.prepare_inputs(images, torch.tensor([0, 1]))
    assert inputs.shape == (2, 3, 16, 16)
    assert torch.equal(inputs[:, 0], inputs[:, 2])
    write_image(tmp_path / "train/images/train0.png")  # a single colour image gives all images three channels
    assert data.load(config("folder"), tmp_path).train.images.channels == 3
    assert data.load(config("folder", channels=1), tmp_path).train.images.channels == 1


def test_images_of_16_bits_are_stored_as_such_and_scaled_without_outliers(tmp_path):
    folder(tmp_path)
    for path in tmp_path.rglob("images/*.png"):
        pixels = RNG.integers(1000, 5000, (20, 24)).astype(np.uint16)
        pixels[0, 0] = 65535
        Image.fromarray(pixels).save(path)
    settings = config("folder", fit="crop", channels=1)
    for place in (None, tmp_path / "cache", tmp_path / "cache"):
        found = data.load(settings, tmp_path, place).train
        assert found.images.values.dtype == torch.uint16
        assert int(found.images[0].int().max()) == 65535
        assert 1000 <= found.scaling.low[0] < 1100
        assert 4900 < found.scaling.high[0] <= 5000
        scaled = found.scale(found.images[0][None])
        assert (float(scaled.min()), float(scaled.max())) == (-1, 1)
        assert abs(float(scaled.mean())) < 0.1


def test_images_are_standardised_by_the_training_images(tmp_path, tiny):
    folder(tmp_path)
    settings = tiny(data__layout="folder", data__normalise="standard", data__train_images=None, data__test_images=None)
    found = data.load(settings.data, tmp_path).train
    inputs = found.prepare_inputs(torch.stack(list(found.images)), torch.arange(3))
    assert torch.allclose(inputs.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(inputs.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5)
    batch, _ = Batches(found, settings)(0)
    first = Batches(found, settings)._indices(0)[:1]
    assert torch.equal(batch[0], found.prepare_inputs(found.images[int(first)][None], first)[0])


def test_the_scaling_of_8_bits_does_not_depend_on_the_images():
    histogram = np.zeros((1, 256), np.int64)
    histogram[0, [0, 255]] = 10
    assert Scaling.from_histogram(histogram) == Scaling((0.0,), (255.0,), (0.0,), (1.0,))


def volumes(root, shape=(20, 24, 5), labels=None, kind=np.int16, mask_shape=None):
    for name in "abcdef":
        mask = np.zeros(mask_shape or shape[:3], np.uint8)
        mask[4:12, 6:18, 1:] = 1
        numbers = (RNG.normal(0, 400, shape)).astype(kind)
        for where, array in (("images", numbers), ("masks", mask if labels is None else labels)):
            (root / where).mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), root / where / f"{name}.nii.gz")


def test_slices_of_a_volume_stay_in_one_split(tmp_path):
    volumes(tmp_path)
    found = data.load(config("folder", channels=1), tmp_path)
    assert (len(found.train.names), len(found.test.names)) == (25, 5)
    assert len({name.split("/")[0] for name in found.test.names}) == 1
    assert [bool(mask.any()) for mask in found.test.masks] == [False, True, True, True, True]
    report = check(config("folder", channels=1), tmp_path)
    assert (report.splits["train"].groups, report.splits["train"].bits) == (5, (16,))


def test_volumes_may_have_several_channels_and_real_numbers(tmp_path):
    volumes(tmp_path, shape=(20, 24, 5, 2), kind=np.float32)
    found = data.load(config("folder", channels=2), tmp_path)
    assert found.train.images.channels == 2
    with pytest.raises(DataError, match=r"have 2 channels, but data\.channels is 3"):
        data.load(config("folder"), tmp_path)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mask_shape": (20, 24, 4)}, r"masks/a.nii.gz is 20 × 24 × 4, but its volume .* is 20 × 24 × 5"),
        ({"labels": np.full((20, 24, 5), 3, np.uint8)}, r"a.nii.gz has the values 3: .*data.foreground=\[3\]"),
        ({"labels": np.full((20, 24, 5), 0.5, np.float32)}, r"a.nii.gz is no segmentation"),
        ({"shape": (20, 24, 5, 1, 2), "mask_shape": (20, 24, 5)}, r"images/a.nii.gz has the shape 20 × 24 × 5 × 1 × 2"),
    ],
)
def test_a_fault_of_a_volume_is_reported_in_one_sentence(settings, words, tmp_path):
    volumes(tmp_path, **settings)
    with pytest.raises(DataError, match=words):
        data.load(config("folder", channels=1), tmp_path)


def test_test_crops_depend_on_the_seed_alone(tmp_path, tiny):
    folder(tmp_path)
    settings = {
        "data__layout": "folder",
        "data__fit": "crop",
        "data__test_crops": True,
        "data__train_images": None,
        "data__test_images": None,
    }
    test = data.load(tiny(**settings).data, tmp_path).test
    crops = [trial._crop_test_images(test, tiny(seed=seed, **settings)) for seed in (0, 0, 1)]
    assert crops[0].sizes.tolist() == [[16, 16]] * 2
    assert torch.equal(crops[0].images.values, crops[1].images.values)
    assert not torch.equal(crops[0].images.values, crops[2].images.values)
    outcome = trial.run(tiny(**settings), tmp_path, tmp_path / "work", device="cpu")
    assert 0 <= outcome.trial["iou"] <= 1
    with pytest.raises(Exception, match='fit="crop" only'):
        tiny(**settings | {"data__fit": "resize"})


def test_a_check_reports_what_looks_wrong(tmp_path):
    isic16(tmp_path)
    training = tmp_path / "ISBI2016_ISIC_Part1_Training_Data"
    (tmp_path / "ISBI2016_ISIC_Part1_Test_Data/ISIC_Test0.jpg").write_bytes(
        (training / "ISIC_Training0.jpg").read_bytes()
    )
    write_mask(tmp_path / "ISBI2016_ISIC_Part1_Test_GroundTruth/ISIC_Test1_Segmentation.png", values=(255,))
    (training / "superpixels.dat").write_text("?")
    found = check(config("isic16"), tmp_path)
    assert found.problems == ()
    copies, _, inverted, unused = found.suspicions
    assert "hold the same image in training and testing" in copies
    assert "ISIC_Test1_Segmentation.png is foreground: check that it is not inverted" in inverted
    assert "superpixels.dat is not used" in unused
    assert "suspicious: " in str(found)


def test_a_cache_of_another_version_is_rebuilt(tmp_path, monkeypatch, caplog):
    folder(tmp_path / "root")
    digest = data.load(config("folder"), tmp_path / "root", tmp_path / "cache").digest
    monkeypatch.setattr(cache, "VERSION", cache.VERSION + 1)
    assert data.load(config("folder"), tmp_path / "root", tmp_path / "cache").digest == digest
    assert f"of version {cache.VERSION - 1}, this is {cache.VERSION}" in caplog.text
    assert len(entries(tmp_path / "cache")) == 1


def test_a_full_disk_is_reported_in_one_sentence_and_leaves_no_file(tmp_path):
    """A limit on the size of files stands in for the full disk. It belongs to a process, so the test starts one."""
    folder(tmp_path / "root")
    code = (
        "import resource, sys; from pathlib import Path; from diffseg import data; from diffseg.config import Data\n"
        "from diffseg.errors import DataError\n"
        "config = Data(name='mine', layout='folder', size=256)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: data.load(config, Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "except DataError as error: print(error)\n"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path / "root"), str(tmp_path / "cache")]
    ended = subprocess.run(arguments, capture_output=True, text=True)
    assert "cannot be kept in" in ended.stdout, ended.stderr
    assert "make room there, or give another --store" in ended.stdout
    assert entries(tmp_path / "cache") == []


@pytest.mark.slow
def test_large_photographs_take_bounded_memory(tmp_path):
    """A picture of 36 million pixels takes 108 MB if it is decoded at full size, and as much again in conversion."""
    root = tmp_path / "root"
    for split in ("train", "test"):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for k in range(2):
            Image.new("RGB", (6000, 6000), (200, 150, 120)).save(root / split / "images" / f"{k}.jpg")
            mask = Image.new("1", (6000, 6000))
            mask.paste(1, (1000, 1000, 3000, 4000))
            mask.save(root / split / "masks" / f"{k}.png")
    code = (
        "import resource, sys; from pathlib import Path; from diffseg import data; from diffseg.config import Data\n"
        "import scipy.ndimage; peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "before = peak()\n"
        "data.load(Data(name='mine', layout='folder', size=64), Path(sys.argv[1]))\n"
        "print(peak() - before)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(root)], capture_output=True, text=True, check=True)
    assert float(ended.stdout) < 300
