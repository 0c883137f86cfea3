"""The layout `nnunet`: raw data sets of nnU-Net v2 and of the Medical Segmentation Decathlon, as they are."""

import json

import numpy as np
import pytest
import torch
from nnunet_files import (
    SHAPE,
    describe,
    numbers,
    truth,
    write_decathlon,
    write_pictures,
    write_volumes,
)  # fmt: skip
from test_data import config as plain
from volume_files import AFFINE, ORIENTATIONS, save, turned

from diffseg import data
from diffseg.config import Config
from diffseg.data.check import check
from diffseg.data.layouts import LAYOUTS
from diffseg.errors import DataError

T1_T2 = {"channel_names": {"0": "T1", "1": "T2"}}


def config(root, **settings):
    """Return the settings of a data set with those of its dataset.json."""
    leaves = LAYOUTS["nnunet"].read_settings(root) | {f"data.{key}": value for key, value in settings.items()}
    return (
        Config()
        .with_leaves({"data.layout": "nnunet", "data.name": "mine", "data.size": 8, "data.fit": "crop"} | leaves)
        .data
    )


FORMS = {  # by name: writes a data set at a root; the names of its images are a, b, c and d, or their slices
    "volumes": lambda root: describe(write_volumes(root)),
    "volumes of two channels": lambda root: describe(write_volumes(root, channels=2), **T1_T2),
    "pictures": lambda root: describe(write_pictures(root), file_ending=".png"),
    "pictures of two channels": lambda root: describe(write_pictures(root, channels=2), file_ending=".png", **T1_T2),
    "colours": lambda root: describe(
        write_pictures(root, colour=True), file_ending=".png", channel_names={"0": "R", "1": "G", "2": "B"}
    ),
    "decathlon": write_decathlon,
    "decathlon of two channels": lambda root: write_decathlon(root, channels=2),
}


@pytest.mark.sampled(6)
@pytest.mark.parametrize("form", FORMS)
def test_a_data_set_is_read_as_it_is(form, tmp_path):
    FORMS[form](tmp_path / "root")
    settings = config(tmp_path / "root")
    report = check(settings, tmp_path / "root")
    assert report.problems == ()
    fresh, *cached = [data.load(settings, tmp_path / "root", tmp_path / cache) for cache in ("a/cache", "a/cache")]
    assert cached[0].digest == fresh.digest
    names = (*fresh.train.names, *fresh.test.names)
    volumes = "pictures" not in form and form != "colours"
    assert len(names) == (4 * SHAPE[2] if volumes else 4)
    assert set(fresh.train.groups) | set(fresh.test.groups) == (set("abcd") if volumes else {None})
    for split in (fresh.train, cached[0].test):
        for k, name in enumerate(split.names):
            case, _, index = name.partition("/")
            assert np.array_equal(split.masks[k][0].numpy(), truth(1, 2)[:, :, int(index or 0)])
            seed = "abcd".index(case)
            if "decathlon" in form:
                pixels = numbers(seed, *[2] * ("two" in form))[:, :, int(index)]
            elif form == "colours":
                pixels = numbers(10 * seed, 3)[:, :, 0]
            else:
                found = [numbers(10 * seed + channel)[:, :, int(index or 0)] for channel in range(settings.channels)]
                pixels = np.stack(found, axis=-1)
            assert np.array_equal(split.images[k].numpy(), pixels.reshape(*SHAPE[:2], -1).transpose(2, 0, 1))
            assert np.array_equal(split.record(k).read_image(settings.channels), pixels.reshape(*SHAPE[:2], -1))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("normalise", ["range", "standard", "case"])
@pytest.mark.parametrize("orientation", ORIENTATIONS[::5])
def test_channels_are_turned_to_the_first_and_normalised_alone(normalise, orientation, tmp_path):
    describe(write_volumes(tmp_path, channels=2), **T1_T2)
    for k, case in enumerate("abcd"):
        second = 100.0 * numbers(10 * k + 1) - 3000  # other units, and 16 bits
        save(tmp_path / "imagesTr" / f"{case}_0001.nii.gz", *turned(second.astype(np.int16), AFFINE, orientation))
    split = data.load(config(tmp_path, normalise=normalise), tmp_path).train
    for k, name in enumerate(split.names):
        case, index = "abcd".index(name[0]), int(name[2:])
        found = split.prepare_inputs(split.images[k][None], torch.tensor([k]))[0].numpy()
        for channel in range(2):
            wanted = numbers(10 * case + channel)[:, :, index].astype(float)
            assert np.corrcoef(found[channel].ravel(), wanted.ravel())[0, 1] > 0.999
        if normalise == "case":
            both = np.stack([numbers(10 * case + channel) for channel in range(2)], axis=0).astype(float)
            wanted = (both[:, :, :, index] - both.mean((1, 2, 3))[:, None, None]) / both.std((1, 2, 3))[:, None, None]
            assert np.abs(found - wanted).max() < 0.05


def test_regions_and_ignored_pixels(tmp_path):
    labels = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
    describe(write_volumes(tmp_path, values=(1, 2, 3)), labels=labels, regions_class_order=[1, 2])
    settings = config(tmp_path)
    assert (settings.regions, settings.ignore) == (True, (3,))
    mask = data.load(settings, tmp_path).train.masks[0][0].numpy()
    assert set(np.unique(mask).tolist()) == {0, 1, 2, 255}


@pytest.mark.parametrize("labelled", [True, False])
def test_the_test_images_are_used_if_they_have_labels(labelled, tmp_path):
    describe(write_volumes(tmp_path))
    write_volumes(tmp_path, "yz", part="Ts")
    if not labelled:
        for path in (tmp_path / "labelsTs").iterdir():
            path.unlink()
    found = data.load(config(tmp_path), tmp_path)
    assert ({name[0] for name in found.test.names} == {"y", "z"}) == labelled
    assert len(found.train.names) + len(found.test.names) == (6 if labelled else 4) * SHAPE[2]
    remarks = " ".join(check(config(tmp_path), tmp_path).suspicions)
    assert (f"{tmp_path / 'imagesTs'} is not used, since it has no labels in labelsTs" in remarks) == (not labelled)


def test_a_table_gives_the_splits(tmp_path):
    describe(write_volumes(tmp_path))
    (tmp_path / "split.csv").write_text(
        "name,split\n" + "\n".join(f"{case},{'test' if case in 'bd' else 'train'}" for case in "abcd")
    )
    found = data.load(config(tmp_path), tmp_path)
    assert {name[0] for name in found.train.names} == {"a", "c"}
    assert set(found.test.groups) == {"b", "d"}


def test_cases_may_be_listed_anywhere(tmp_path):
    write_volumes(tmp_path / "raw", channels=2)
    (tmp_path / "raw/imagesTr").rename(tmp_path / "elsewhere")
    cases = {
        f"case {case}": {
            "images": [f"../elsewhere/{case}_{channel:04d}.nii.gz" for channel in range(2)],
            "label": f"labelsTr/{case}.nii.gz",
        }
        for case in "abcd"
    }
    describe(tmp_path / "raw", dataset=cases, **T1_T2)
    found = data.load(config(tmp_path / "raw"), tmp_path / "raw")
    assert {*found.train.groups, *found.test.groups} == set(cases)


def test_listed_images_may_have_a_file_for_each_channel(tmp_path):
    """As nnU-Net v1 had it."""
    write_decathlon(tmp_path, modality={"0": "T1", "1": "T2"})
    for path in (tmp_path / "imagesTr").iterdir():
        path.unlink()
    write_volumes(tmp_path, channels=2)
    assert data.load(config(tmp_path), tmp_path).train.images.channels == 2


def drop(name):
    return lambda root: (root / name).unlink()


CONTRADICTIONS = {  # writes a data set, spoils it → words of the problem
    "another number": (
        "volumes",
        lambda root: describe(root, numTraining=5),
        "says numTraining is 5, but there are 4 cases",
    ),
    "a missing image": ("volumes", drop("imagesTr/b_0000.nii.gz"), "labelsTr/b.nii.gz has no image"),
    "missing labels": ("volumes", drop("labelsTr/b.nii.gz"), "imagesTr/b_0000.nii.gz has no labels"),
    "a missing channel": (
        "volumes of two channels",
        drop("imagesTr/b_0001.nii.gz"),
        "b_0000.nii.gz has 1 channel, but .*names 2: add the missing files",
    ),
    "a missing first channel": (
        "volumes of two channels",
        drop("imagesTr/b_0000.nii.gz"),
        "b_0001.nii.gz has 1 channel, but",
    ),
    "three channels of two": (
        "volumes of two channels",
        lambda root: write_volumes(root, "b", channels=3),
        "b_0002.nii.gz is channel 2, but .* names 2, from 0 to 1",
    ),
    "one channel of two": (
        "volumes of two channels",
        lambda root: describe(root),
        r"a_0000.nii.gz has 2 channels with its fu",
    ),
    "two channels of one": (
        "volumes",
        lambda root: describe(root, **T1_T2),
        "a_0000.nii.gz has 1 channel, but .*names 2",
    ),
    "colours for grays": ("colours", lambda root: describe(root, file_ending=".png"), "a_0000.png has 3 channels, but"),
    "grays for colours": (
        "pictures",
        lambda root: describe(root, file_ending=".png", channel_names={"0": "R", "1": "G", "2": "B"}),
        "a_0000.png has 1 channel, but .*names 3",
    ),
    "channels of other sizes": (
        "pictures of two channels",
        lambda root: (root / "imagesTr/b_0001.png").write_bytes(_picture(20, 23)),
        "b_0001.png is 23 × 20 px, but b_0000.png is 24 × 20: all channels of an image must have one size",
    ),
    "channels on other grids": (
        "volumes of two channels",
        lambda root: save(root / "imagesTr/b_0001.nii.gz", numbers(1), AFFINE @ np.diag([1, 1, 2, 1])),
        "they must lie on one grid",
    ),
    "a listed image that is missing": (
        "decathlon",
        drop("imagesTr/b.nii.gz"),
        "lists .*imagesTr/b.nii.gz, which does not exist",
    ),
    "listed labels that are missing": (
        "decathlon",
        drop("labelsTr/b.nii.gz"),
        "lists .*labelsTr/b.nii.gz, which does not exist",
    ),
    "a case that is not listed": (
        "decathlon",
        lambda root: save(root / "imagesTr/x.nii.gz", numbers(0), AFFINE),
        "imagesTr/x.nii.gz is not listed in .*dataset.json",
    ),
    "another channel in one case": (
        "decathlon of two channels",
        lambda root: save(root / "imagesTr/b.nii.gz", numbers(0), AFFINE),
        "b.nii.gz has 1 channel, but .*names 2",
    ),
    "a label that is not named": (
        "volumes",
        lambda root: save(root / "labelsTr/b.nii.gz", truth(1, 2, 3), AFFINE),
        "labelsTr/b.nii.gz has the value 3, which no class of data.classes lists",
    ),
    "two files of one name": (
        "decathlon",
        lambda root: (root / "imagesTr/b.nii").write_bytes(b""),
        "imagesTr/b.nii is not listed",
    ),
}


def _picture(height, width):
    import io

    from PIL import Image

    stream = io.BytesIO()
    Image.new("L", (width, height)).save(stream, "png")
    return stream.getvalue()


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_a_contradiction_is_refused_in_one_sentence(case, tmp_path):
    form, spoil, words = CONTRADICTIONS[case]
    FORMS[form](tmp_path)
    spoil(tmp_path)
    with pytest.raises(DataError, match=words) as error:
        data.load(config(tmp_path), tmp_path)
    assert "\n" not in str(error.value)
    assert any(str(error.value).startswith(problem) for problem in check(config(tmp_path), tmp_path).problems)


EMPTY = {
    "another ending": (
        lambda root: describe(root, file_ending=".png"),
        r"holds 4 .gz files, but dataset.json says file_ending .png",
    ),
    "no images": (
        lambda root: (root / "imagesTr").rename(root / "images"),
        "has no folder imagesTr: nnU-Net's raw data are",
    ),
    "no labels": (lambda root: (root / "labelsTr").rename(root / "labels"), "has no folder labelsTr"),
}


@pytest.mark.parametrize("case", EMPTY)
def test_a_data_set_without_cases_is_refused(case, tmp_path):
    describe(write_volumes(tmp_path))
    spoil, words = EMPTY[case]
    spoil(tmp_path)
    with pytest.raises(DataError, match=words):
        data.load(config(tmp_path), tmp_path)


def test_settings_without_classes_are_refused_with_those_to_paste(tmp_path):
    describe(write_volumes(tmp_path))
    with pytest.raises(
        DataError, match=r"""set data.channels=1 'data.classes=\{"anterior": \[1\], "posterior": \[2\]\}'"""
    ):
        data.load(plain("nnunet"), tmp_path)
    assert data.load(plain("nnunet", foreground=(1, 2), channels=1), tmp_path).train.masks.values.max() == 1


def test_decoded_data_follow_the_file(tmp_path):
    """The cache is rebuilt when dataset.json changes: it decides which files there are."""
    describe(write_volumes(tmp_path / "root"))
    settings = config(tmp_path / "root")
    data.load(settings, tmp_path / "root", tmp_path / "store/cache")
    describe(tmp_path / "root", numTraining=7)
    with pytest.raises(DataError, match="numTraining is 7"):
        data.load(settings, tmp_path / "root", tmp_path / "store/cache")


def test_the_parent_folder_is_answered_with_the_command_for_the_data_set(tmp_path):
    describe(write_volumes(tmp_path / "Task01"))
    describe(write_volumes(tmp_path / "Task02"))
    with pytest.raises(
        DataError,
        match=r"no data set, but .*Task01 is, in the layout nnunet: `diffseg data check mine .*nnunet` reads it, one of 2 ",
    ):
        data.load(plain("folder"), tmp_path)


def test_the_hippocampus_needs_no_settings(real_data):
    root = real_data / "hippocampus" / "Task04_Hippocampus"
    settings = config(root)
    assert settings.classes == (("Anterior", (1,)), ("Posterior", (2,)))
    found = data.find(settings, root)
    listed = json.loads((root / "dataset.json").read_text())["training"]
    assert found.problems == ()
    assert len({record.group for record in found.records}) == len(listed) == 100
    shapes = [record.check_headers() for record in found.records[::50]]
    assert {(shape.channels, shape.spacing) for shape in shapes} == {(1, (1.0, 1.0))}
