"""Predictions of new images as files: pictures, volumes with their geometry, BRATS patients, and user errors."""

import json
import os

import nibabel
import numpy as np
import pytest
from click.testing import CliRunner
from conftest import TINY
from PIL import Image

from diffseg import data, trial
from diffseg.data.scaling import Scaling
from diffseg.errors import UserError
from diffseg.prediction.new_images import predict_files
from studies.commands.program import main
from studies.definition.reading import read_study
from studies.engine.request import TrialRequest
from studies.engine.worker import run_trial
from studies.store.ledger import Ledger

RNG = np.random.default_rng(0)


@pytest.fixture
def trained(tiny, tmp_path):
    """A function from settings to (configuration, folder, scaling) of a finished trial on a folder of pictures."""
    from test_data import folder

    def train(root=None, **settings):
        if root is None:
            root = tmp_path / "data"
            folder(root)
        settings = {
            "data__name": "mine",
            "data__layout": "folder",
            "data__train_images": None,
            "data__test_images": None,
        } | settings
        config = tiny(**settings)
        outcome = trial.run(config, root, tmp_path / "trial", device="cpu")
        return config, tmp_path / "trial", Scaling(**json.loads(outcome.trial["scaling"]))

    return train


@pytest.mark.sampled(1)
@pytest.mark.parametrize("settings", [{"experiment": "e1"}, {"experiment": "e2"}, {"data__fit": "crop"}])
def test_pictures_are_predicted_at_their_own_size(settings, trained, tmp_path):
    config, work, scaling = trained(**settings)
    sizes = {"wide": (30, 50), "small": (9, 12), "square": (16, 16)}
    for name, size in sizes.items():
        Image.fromarray(RNG.integers(0, 255, (*size, 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    inputs = [tmp_path / f"{name}.png" for name in sizes]
    reported = []
    written = predict_files(
        config, work, scaling, inputs, tmp_path / "out", "cpu", on_progress=lambda *x: reported.append(x)
    )
    assert reported == [(1, 3), (2, 3), (3, 3)]
    kinds = {"mask", "mean", "sd", "sample-0", "sample-1"}
    assert {path.name for path in written} == {f"{name}_{kind}.png" for name in sizes for kind in kinds}
    for name, size in sizes.items():
        maps = {kind: np.asarray(Image.open(tmp_path / "out" / f"{name}_{kind}.png")) for kind in kinds}
        assert all(pixels.shape == size for pixels in maps.values())
        assert set(np.unique(maps["mask"])) <= {0, 255}
        assert np.array_equal(maps["mask"] > 0, maps["mean"] > 127)


def test_a_written_mask_has_the_dice_of_the_ledger(trained, tmp_path):
    """Images are evaluated at their own size."""
    config, work, scaling = trained(inference__resolution="original")
    outcome = trial.run(config, tmp_path / "data", work, device="cpu")
    predict_files(config, work, scaling, [tmp_path / "data/test/images"], tmp_path / "out", "cpu")
    for name in ("test0", "test1"):
        mask, truth = (
            np.asarray(Image.open(path)) > 0
            for path in (tmp_path / "out" / f"{name}_mask.png", tmp_path / "data/test/masks" / f"{name}.png")
        )
        dice = 2 * (mask & truth).sum() / (mask.sum() + truth.sum())
        (expected,) = (row["value"] for row in outcome.images if (row["image"], row["metric"]) == (name, "dice"))
        assert dice == pytest.approx(expected)


def test_volumes_keep_their_geometry(trained, tmp_path):
    affine = np.array([[-0.7, 0, 0, 11], [0, 0.7, 0, -5], [0, 0, 2.5, 3], [0, 0, 0, 1]])
    for split, count in (("train", 2), ("test", 1)):
        for k in range(count):
            pixels = RNG.integers(-1000, 2000, (20, 24, 3)).astype(np.int16)
            mask = np.zeros(pixels.shape, np.uint8)
            mask[4:12, 6:18] = 1
            for kind, numbers in (("images", pixels), ("masks", mask)):
                path = tmp_path / "volumes" / split / kind / f"{split}{k}.nii.gz"
                path.parent.mkdir(parents=True, exist_ok=True)
                nibabel.save(nibabel.Nifti1Image(numbers, affine), path)
    config, work, scaling = trained(tmp_path / "volumes", data__channels=1)
    found = data.load(config.data, tmp_path / "volumes")
    assert found.train.names == tuple(f"train{k}/{z:03d}" for k in range(2) for z in range(3))
    assert (scaling.high[0] - scaling.low[0]) > 2900  # Hounsfield-like numbers keep their steps
    predict_files(config, work, scaling, [tmp_path / "volumes/test/images/test0.nii.gz"], tmp_path / "out", "cpu")
    original = nibabel.load(tmp_path / "volumes/test/images/test0.nii.gz")
    for kind, dtype in (("mask", np.uint8), ("mean", np.float32), ("sd", np.float32), ("sample-1", np.uint8)):
        written = nibabel.load(tmp_path / "out" / f"test0_{kind}.nii.gz")
        assert written.shape == original.shape
        assert np.allclose(written.affine, affine)
        assert written.header.get_zooms() == original.header.get_zooms()
        assert written.get_data_dtype() == dtype
    assert 0 < np.asarray(nibabel.load(tmp_path / "out/test0_mean.nii.gz").dataobj).mean() < 1


@pytest.mark.slow
def test_the_maps_of_a_brats_patient_lie_where_it_was_cut_from(trained, tmp_path):
    from test_brats import NAMES, volume

    for name in NAMES[:3]:
        volume(tmp_path / "brats", name)
    config, work, scaling = trained(tmp_path / "brats", data__layout="brats", data__channels=4)
    volume(tmp_path / "new", "somebody", kinds=("t1", "t1ce", "t2", "flair"))
    predict_files(config, work, scaling, [tmp_path / "new/somebody"], tmp_path / "out", "cpu")
    mean = np.asarray(nibabel.load(tmp_path / "out/somebody_mean.nii.gz").dataobj)
    assert mean.shape == (240, 240, 80 + 3 + 26)
    assert mean[8:-8, 8:-8, 80:83].any()
    outside = mean.copy()
    outside[8:-8, 8:-8, 80:83] = 0
    assert not outside.any()


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (["nowhere.png"], "neither a file nor a folder"),
        (["empty"], "holds no image"),
        (["text.png"], "text.png is not an image"),
        (["a.png", "b/a.png"], "have the same name"),
        (["pipe.png"], "neither a file nor a folder"),
        (["pipes"], "pipe.png is a pipe"),
        (["clip.png"], "clip.png is not an image in PNG, JPEG, TIFF, BMP"),
    ],
)
def test_user_errors_are_one_sentence(inputs, words, trained, tmp_path):
    config, work, scaling = trained()
    for name in ("empty", "pipes"):
        (tmp_path / name).mkdir()
    for name in ("pipe.png", "pipes/pipe.png"):
        os.mkfifo(tmp_path / name)
    Image.new("L", (20, 20)).save(tmp_path / "clip.png", "GIF")
    (tmp_path / "b").mkdir()
    (tmp_path / "text.png").write_text("hello")
    for path in (tmp_path / "a.png", tmp_path / "b/a.png"):
        Image.new("RGB", (20, 20)).save(path)
    with pytest.raises(UserError, match=words):
        predict_files(config, work, scaling, [tmp_path / name for name in inputs], tmp_path / "out", "cpu")


@pytest.mark.sampled(1)
@pytest.mark.parametrize("device", ["rubbish", "cuda:99", "meta", "cpu:x"])
def test_an_unavailable_device_is_refused_in_a_sentence(device, trained, tmp_path):
    config, work, scaling = trained()
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=f"device '{device}' cannot be used .*: give another --device, such as cpu"):
        predict_files(config, work, scaling, [tmp_path / "a.png"], tmp_path / "out", device)
    assert not (tmp_path / "out").exists()


def test_trials_that_do_not_segment_or_are_not_trained_are_refused(trained, tiny, tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    scaling = Scaling((0.0,), (255.0,), (0.0,), (1.0,))
    with pytest.raises(UserError, match="experiment e3 segments nothing"):
        predict_files(tiny(experiment="e3"), tmp_path, scaling, [tmp_path / "a.png"], tmp_path / "out", "cpu")
    with pytest.raises(UserError, match="no checkpoint"):
        predict_files(tiny(), tmp_path / "untrained", scaling, [tmp_path / "a.png"], tmp_path / "out", "cpu")


def test_the_command_finds_the_trial_in_the_store(tmp_path):
    """The store is that of a worker, made without Ray."""
    ledger = Ledger(str(tmp_path / "store"), "mine")
    study = read_study("quickstart", {}, TINY, "mine", experiments=("e2",))
    ledger.define(study.definition())
    first = study.trials[0]
    Image.fromarray(RNG.integers(0, 255, (30, 20, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    arguments = ["predict", "mine", first.name, str(tmp_path / "a.png"), "--store", str(tmp_path / "store")]
    arguments += ["--output", str(tmp_path / "out")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert f"trial {first.name} is waiting: `diffseg run mine` has to end it first" in result.output
    ledger.write(first.name, 1, {"trials": [{"status": "failed"}]})
    result = CliRunner().invoke(main, arguments)
    assert f"trial {first.name} is failed: `diffseg retry mine` has to end it first" in result.output
    order = TrialRequest(
        store=ledger.store, study="mine", trial=first.name, attempt=2, config=first.config.canonical(), root=None, cpus=1,
        gpus=0, rungs=None, commit=None, dirty=False,
    )  # fmt: skip
    assert run_trial(order) == "complete"
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "5 files in" in result.output
    assert Image.open(tmp_path / "out/a_mean.png").size == (20, 30)
