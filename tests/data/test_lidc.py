"""LIDC-IDRI in its two public layouts, and how trials treat several raters."""

import numpy as np
import pytest
import torch
from PIL import Image

from diffseg import data, trial
from diffseg.config import Data
from diffseg.data.partition import hash_key
from diffseg.errors import DataError
from diffseg.randomness import generator
from diffseg.training.batches import draw_rater

PATIENTS = [f"LIDC-IDRI-{k:04d}" for k in range(12)]


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def masks(seed, size=16):
    """Return masks of four raters; the last one marks nothing."""
    found = np.zeros((4, size, size), np.uint8)
    for rater in range(3):
        found[rater, 4 : 8 + rater, 4 + seed % 3 : 10] = 255
    return found


def slices(root):
    for k, patient in enumerate(PATIENTS):
        for name in ("slice-0", "slice-1"):
            folder = root / "LIDC-IDRI-slices" / patient / "nodule-0"
            write(folder / "images" / f"{name}.png", np.full((16, 16), 40 + k, np.uint8))
            for rater, mask in enumerate(masks(k)):
                write(folder / f"mask-{rater}" / f"{name}.png", mask)


def crops(root):
    for k, patient in enumerate(PATIENTS):
        write(root / "images" / patient / "z-105.0_c0.png", np.full((16, 16), 40 + k, np.uint8))
        for rater, mask in enumerate(masks(k)):
            write(root / "gt" / patient / f"z-105.0_c0_l{rater}.png", mask)


def config(**settings):
    return Data(**{"name": "lidc", "layout": "lidc", "size": 16, **settings})


@pytest.mark.parametrize("layout", [slices, crops])
def test_layouts_keep_raters_apart_and_patients_together(layout, tmp_path):
    layout(tmp_path)
    found = data.load(config(), tmp_path)
    for split in (found.train, found.test):
        masks = torch.stack(list(split.masks))
        assert masks.shape[1:] == (4, 16, 16)
        assert not masks[:, 3].any()
        assert (masks[:, 2].sum((1, 2)) > masks[:, 0].sum((1, 2))).all()
    patients = [{name.split("/")[0] for name in split.names} for split in (found.train, found.test)]
    assert not patients[0] & patients[1]
    assert patients[1] == set(sorted(PATIENTS, key=lambda name: hash_key(f"0/{name}"))[:2])


def test_splits_of_the_crops_are_kept(tmp_path):
    for part in ("train", "val", "test"):
        write(tmp_path / part / "images" / part / "z-1_c0.png", np.zeros((16, 16), np.uint8))
        for rater, mask in enumerate(masks(0)):
            write(tmp_path / part / "gt" / part / f"z-1_c0_l{rater}.png", mask)
    found = data.load(config(), tmp_path)
    assert found.train.names == ("train/z-1_c0", "val/z-1_c0")
    assert found.test.names == ("test/z-1_c0",)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda root: (root / "gt/LIDC-IDRI-0003/z-105.0_c0_l2.png").unlink(), r"z-105.0_c0.png has 3 masks.*4 raters"),
        (lambda root: write(root / "gt/LIDC-IDRI-0003/z-105.0_c0_l2.png", np.zeros((9, 9), np.uint8)), "9 × 9 px"),
    ],
)
def test_missing_and_unequal_raters_are_refused_in_one_sentence(damage, words, tmp_path):
    crops(tmp_path)
    damage(tmp_path)
    with pytest.raises(DataError, match=words):
        data.load(config(), tmp_path)


def test_patients_are_held_out_whole(tmp_path):
    slices(tmp_path)
    found = data.load(config(held_out=0.3), tmp_path, tmp_path / "cache")
    patients = [{name.split("/")[0] for name in split.names} for split in (found.train, found.test)]
    assert (len(patients[0]), len(patients[1]), patients[0] & patients[1]) == (7, 3, set())
    assert len(found.test.names) == 6


def test_a_patient_in_two_splits_is_named(tmp_path):
    for part in ("train", "test"):
        crops(tmp_path / part)
    with pytest.raises(DataError, match=r"patients or groups are in both splits: LIDC-IDRI-0000, LIDC-IDRI-0001"):
        data.load(config(), tmp_path)


def test_a_slice_without_one_of_its_masks_is_named(tmp_path):
    slices(tmp_path)
    (tmp_path / "LIDC-IDRI-slices/LIDC-IDRI-0002/nodule-0/mask-1/slice-1.png").unlink()
    with pytest.raises(DataError, match=r"slice-1.png has no mask in mask-1"):
        data.load(config(), tmp_path)


def test_each_training_image_has_one_raters_mask_and_all_raters_occur():
    raters = torch.arange(4.0).view(1, 4, 1, 1).repeat(400, 1, 2, 2)
    drawn = draw_rater(raters, generator("cpu", 0))
    assert drawn.shape == (400, 1, 2, 2)
    assert (drawn == drawn[:, :, :1, :1]).all()
    counts = drawn[:, 0, 0, 0].long().bincount()
    assert (counts - 100).abs().max() < 40


@pytest.mark.parametrize("experiment", ["e1", "e2"])
def test_a_trial_records_what_raters_disagree_on(experiment, tiny, tmp_path):
    crops(tmp_path / "data")
    settings = {"data__name": "lidc", "data__layout": "lidc", "data__train_images": None, "data__test_images": None}
    outcome = trial.run(tiny(experiment=experiment, **settings), tmp_path / "data", tmp_path / "work", device="cpu")
    for metric in ("iou", "iou_raters", "dice_raters", "ged", "ged_unbiased", "hm_iou"):
        assert outcome.trial[metric] == outcome.trial[metric]  # not NaN
    assert outcome.trial["samples"] == 2
    metrics = {row["metric"] for row in outcome.images}
    assert metrics >= {"iou", "ged", "ged_unbiased", "hm_iou", "ncc", "iou_raters", "dice_raters"}


@pytest.mark.slow
def test_the_real_slices_are_listed(real_data):
    found = data.load(config(size=32), real_data / "lidc")
    assert found.train.masks.channels == 4
    patients = [{name.split("/")[0] for name in split.names} for split in (found.train, found.test)]
    assert len(patients[0]) + len(patients[1]) == 120
    assert not patients[0] & patients[1]
