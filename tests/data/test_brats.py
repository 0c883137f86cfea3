"""The layout of BRATS2020, on volumes of few slices and the published 240 px."""

import nibabel
import numpy as np
import pytest
import torch
from volume_files import ORIENTATIONS, save, turned

from diffseg import data
from diffseg.config import Data
from diffseg.data import brats
from diffseg.data.opening import clear_caches
from diffseg.data.partition import hash_key
from diffseg.errors import DataError
from diffseg.labels.classes import BINARY, IGNORED, Classes

DEPTH = 80 + 3 + 26
NAMES = [f"BraTS20_Training_{k:03d}" for k in range(4, 9)]
RNG = np.random.default_rng(0)


def volume(root, name, kinds=(*brats.MODALITIES, "seg"), depth=DEPTH, labels=(0, 1, 2, 4)):
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    for kind in kinds:
        pixels = np.zeros((240, 240, depth), np.int16)
        if kind == "seg":
            for k, label in enumerate(labels):
                pixels[60 + 20 * k : 80 + 20 * k, 100:140] = label
        else:
            pixels[40:200, 40:200] = RNG.integers(100, 1000)
            pixels[100, 100, 81] = 30_000  # an outlier, which the percentiles cut
            pixels[:, :, 82] += 1
        nibabel.save(nibabel.Nifti1Image(pixels, np.eye(4)), folder / f"{name}_{kind}.nii.gz")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("brats")
    for name in NAMES:
        volume(root, name)
    return root


def config(**settings):
    return Data(**{"name": "brats", "layout": "brats", "size": 56, "channels": 4, **settings})


def test_slices_are_cut_scaled_and_split_by_patient(tree):
    found = data.load(config(size=224), tree)
    assert found.train.images[0].shape == (4, 224, 224)
    assert set(found.train.spacings) == {(1.0, 1.0)}
    assert len(found.train.names) + len(found.test.names) == 3 * len(NAMES)
    patients = {name.split("/")[0] for name in found.test.names}
    assert patients == set(sorted(NAMES, key=lambda name: hash_key(f"0/{name}"))[:1])
    assert found.train.images[0].amax((1, 2)).tolist() == [255] * 4
    assert found.train.masks[0][0, :, 110].sum() == 60  # labels 1, 2 and 4 of 20 px each, merged
    small = data.load(config(), tree)
    assert small.train.images[0].shape == (4, 56, 56)
    assert (small.train.images[0].float().mean((1, 2)) - found.train.images[0].float().mean((1, 2))).abs().max() < 2


@pytest.mark.slow
def test_named_classes_are_made_of_the_labels(tree):
    regions = {"whole tumour": [1, 2, 4], "core": [1, 4], "enhancing": 4}
    found = data.load(config(size=224, classes=regions, regions=True, train_images=2, test_images=2), tree).train
    column = found.masks[0][0, :, 110]
    numbers = Classes.of(config(classes=regions, regions=True)).numbers
    assert [int(np.isin(column, own).sum()) for own in numbers] == [60, 40, 20]
    with_ignored = data.load(config(size=224, classes={"core": [1, 4]}, ignore=2, train_images=2, test_images=2), tree)
    assert torch.bincount(with_ignored.train.masks[0][0, :, 110]).tolist() == [164, 40, *[0] * (IGNORED - 2), 20]
    with pytest.raises(DataError, match=r"_seg.nii.gz has the value 2, which no class of data.classes lists"):
        data.load(config(classes={"core": [1, 4]}), tree)


def test_channels_must_be_those_of_the_images(tree):
    with pytest.raises(DataError, match=r"have 4 channels, but data.channels is 3: set data.channels=4"):
        data.load(config(channels=3), tree)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ({"kinds": ("t1", "t2", "flair", "seg")}, r"BraTS20_Training_100 has no t1ce"),
        ({"labels": (0, 3)}, r"_seg.nii.gz has the labels 3: allowed are 0, 1, 2, 4"),
    ],
)
def test_a_fault_is_refused_in_one_sentence(damage, words, tmp_path):
    for name in NAMES[:2]:
        volume(tmp_path, name)
    volume(tmp_path, "BraTS20_Training_100", **damage)
    with pytest.raises(DataError, match=words):
        data.load(config(), tmp_path)


def test_another_shape_and_a_truncated_file_are_refused_by_name(tmp_path):
    for name in NAMES[:2]:
        volume(tmp_path, name)
    volume(tmp_path, NAMES[0], kinds=("t2",), depth=DEPTH + 1)
    with pytest.raises(DataError, match=r"_t2.nii.gz is 240 × 240 × 110, but .*_t1.nii.gz is 240 × 240 × 109"):
        data.load(config(), tmp_path)
    path = tmp_path / NAMES[0] / f"{NAMES[0]}_t2.nii.gz"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"_t2.nii.gz"):
        data.load(config(), tmp_path)


@pytest.mark.slow
def test_a_patients_slices_are_normalised_by_all_of_its_volumes(tree):
    found = data.load(config(size=224, normalise="case", train_images=5), tree).train
    for k, name in enumerate(found.names):
        pixels = brats._channels(tree / name.split("/")[0]).astype(np.float64)
        mean, sd = pixels.mean((0, 1, 2)), pixels.std((0, 1, 2))
        index = int(name.split("/")[1])
        expected = ((pixels[:, :, index] - mean) / sd).transpose(2, 0, 1)
        found_inputs = found.prepare_inputs(found.images[k][None], torch.tensor([k]))[0]
        assert np.abs(found_inputs.numpy() - expected).max() < 1e-3


@pytest.mark.parametrize("kind", ["t2", "seg"])
def test_a_volume_in_another_orientation_is_turned_to_that_of_the_first(kind, tmp_path):
    volume(tmp_path, NAMES[0])
    path = tmp_path / NAMES[0] / f"{NAMES[0]}_{kind}.nii.gz"
    read = (lambda: brats._channels(path.parent)) if kind == "t2" else (lambda: brats._tumour(path, BINARY))
    expected = read()
    clear_caches()
    image = nibabel.load(path)
    save(path, *turned(np.asarray(image.dataobj), image.affine, ORIENTATIONS[7]))
    assert np.array_equal(read(), expected)
    clear_caches()
    shifted = image.affine.copy()
    shifted[0, 3] += 1
    save(path, np.asarray(image.dataobj), shifted)
    with pytest.raises(DataError, match=rf"_{kind}.nii.gz has the origin .*_t1.nii.gz has the origin"):
        read()


def test_values_of_the_foreground_are_refused_and_classes_advised(tree):
    with pytest.raises(DataError, match=r"the layout brats itself says what the foreground is.*data\.classes"):
        data.load(config(foreground=(4,)), tree)
