"""`diffseg predict` of several classes: what it writes has the values, the palette and the metrics of the test masks."""

import itertools
import shutil

import nibabel
import numpy as np
import pytest
from broken import drop_column, rewrite, set_column
from class_folders import CODES, write_cases, write_folder
from click.testing import CliRunner
from conftest import TINY
from PIL import Image
from test_outputs import TILTED
from volume_files import save

from diffseg.data import pictures
from diffseg.data.nnunet import read_settings
from diffseg.data.numbering import number_pixels
from diffseg.labels.classes import Classes
from studies.commands.program import main
from studies.definition.reading import read_study
from studies.engine.request import build_request
from studies.engine.resources import Resources
from studies.engine.worker import run_trial
from studies.store.ledger import Ledger

TRAINED = {
    "data.train_images": None,
    "data.test_images": None,
    "training.steps": 40,
    "training.batch": 6,
    "training.learning_rate": 5e-3,
    "training.checkpoint_every": 40,
    "training.log_every": 20,
    "inference.resolution": "original",
    "inference.ensemble": 3,
}
STUDY = """
experiments = ["e1"]
[network.ensemdiff]
[data.mine]
data.layout = "{layout}"
"""


@pytest.fixture(scope="module")
def run_study(tmp_path_factory):
    """A function that runs the only trial of a study of classes and returns (folder of its store, ledger, trial)."""

    def run(layout, root, **data):
        place = tmp_path_factory.mktemp("study")
        (place / "own.toml").write_text(STUDY.format(layout=layout))
        settings = TINY | TRAINED | {f"data.{key}": value for key, value in data.items()}
        study = read_study(str(place / "own.toml"), {"mine": str(root)} if root else {}, settings)
        ledger = Ledger(str(place / "store"), "own")
        ledger.define(study.definition())
        (trial,) = study.trials
        assert run_trial(build_request(study, ledger, Resources(gpus=0), (None, False), trial)) == "complete"
        return place, ledger, trial

    return run


@pytest.fixture(scope="module")
def trained(run_study, tmp_path_factory):
    """A function from a kind of CODES to (folder of pictures, folder of a store, ledger, trial). Each is trained once."""
    done = {}

    def train(kind):
        if kind not in done:
            root = write_folder(tmp_path_factory.mktemp("data"), kind)
            done[kind] = root, *run_study("folder", root, classes=CODES[kind][0], regions=kind == "regions")
        return done[kind]

    return train


def predict(place, output, *inputs):
    arguments = ["predict", "own", "e1", *map(str, inputs), "--store", str(place / "store"), "--device", "cpu"]
    return CliRunner().invoke(main, [*arguments, "--output", str(output)])


def dice_of(one, other):
    both = one.sum() + other.sum()
    return 2 * (one & other).sum() / both if both else 1.0


def dice_rows(ledger):
    rows = (row for row in ledger.read("images").to_pylist() if row["metric"] == "dice")
    return {(row["image"], row["class"]): row["value"] for row in rows}


def read_numbers(path, data):
    return number_pixels(path, pictures.read_labels(path), Classes.of(data))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", CODES)
def test_written_masks_are_like_the_training_masks(kind, trained, tmp_path):
    """Their mode and palette are the same, they hold the same values, and have the Dice of the ledger for every class."""
    root, place, ledger, trial = trained(kind)
    result = predict(place, tmp_path, root / "test/images")
    assert result.exit_code == 0, result.output
    classes, rows = Classes.of(trial.config.data), dice_rows(ledger)
    maps = [f"{kind}-{name}" for kind in ("mean", "sd") for name in classes.names]
    kinds = ["mask", *maps, "sample-0", "sample-1", "sample-2"]
    expected = {f"test{k}_{kind}.png" for k in range(3) for kind in kinds}
    assert {path.name for path in tmp_path.iterdir()} == expected
    present = set()
    for k in range(3):
        written = {name: tmp_path / f"test{k}_{name}.png" for name in kinds}
        truth = root / "test/masks" / f"test{k}.png"
        for name in ("mask", "sample-1"):
            with Image.open(written[name]) as own, Image.open(truth) as other:
                assert own.size == other.size
                assert own.mode == other.mode
                assert own.getpalette() == other.getpalette()
        masks = [number_pixels(path, pictures.read_labels(path), classes) for path in (written["mask"], truth)]
        present |= set(masks[0].ravel().tolist())
        for name, numbers in zip(classes.names, classes.numbers, strict=True):
            own, other = (np.isin(mask, numbers) for mask in masks)
            assert dice_of(own, other) == pytest.approx(rows[f"test{k}", name])
            probability = np.asarray(Image.open(written[f"mean-{name}"])) / 255
            assert ((probability > 0.51) <= own).all()
    assert present == {0, 1, 2}


def test_a_ledger_without_the_column_yields_values_without_a_palette(trained, tmp_path):
    root, place, _, trial = trained("palette")
    shutil.copytree(place, tmp_path / "copy")
    path = next((tmp_path / "copy/store/own/trials").glob("*.parquet"))
    found = []
    for change in (lambda table: table, drop_column("labels")):
        rewrite(path, change)
        assert predict(tmp_path / "copy", tmp_path, root / "test/images/test0.png").exit_code == 0
        with Image.open(tmp_path / "test0_mask.png") as picture:
            found.append((picture.mode, np.asarray(picture)))
    assert [mode for mode, _ in found] == ["P", "L"]
    assert np.array_equal(found[0][1], found[1][1])
    rewrite(path, set_column("labels", '{"palette": 3}'))
    result = predict(tmp_path / "copy", tmp_path, root / "test/images/test0.png")
    assert result.exit_code == 2
    assert f"the ledger does not say what the masks of {trial.name} hold: run it again" in result.output


def test_volumes_of_classes_keep_values_and_geometry(run_study, tmp_path):
    """Cases of two channels, a file each, in an oblique grid; a class has a value above 255."""
    root = write_cases(tmp_path / "data", (0, 2, 300), TILTED)
    classes = read_settings(root)["data.classes"]
    place, ledger, _ = run_study("nnunet", root, channels=2, classes=classes)
    result = predict(place, tmp_path / "out", root / "imagesTs")
    assert result.exit_code == 0, result.output
    rows = dice_rows(ledger)
    for case in "de":
        truth = nibabel.load(root / "labelsTs" / f"{case}.nii.gz")
        found = nibabel.load(tmp_path / "out" / f"{case}_mask.nii.gz")
        assert found.get_data_dtype() == np.int16
        assert np.array_equal(found.affine, truth.affine)
        masks = [np.asarray(image.dataobj) for image in (found, truth)]
        assert np.unique(masks[0]).tolist() == [0, 2, 300]
        for z, (name, value) in itertools.product(range(3), (("one", 2), ("two", 300))):
            own, other = (mask[..., z] == value for mask in masks)
            assert dice_of(own, other) == pytest.approx(rows[f"{case}/{z:03d}", name])
        mean = nibabel.load(tmp_path / "out" / f"{case}_mean-two.nii.gz")
        assert mean.get_data_dtype() == np.float32
        assert ((np.asarray(mean.dataobj) > 0.51) <= (masks[0] == 300)).all()


def test_synthetic_images_of_two_classes_are_predicted(run_study, tmp_path):
    place, *_ = run_study(
        "synthetic", None, kind="classes", classes={"one": 1, "two": 2}, train_images=12, test_images=4
    )
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 20, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    result = predict(place, tmp_path, tmp_path / "a.png")
    assert result.exit_code == 0, result.output
    assert "8 files in" in result.output
    with Image.open(tmp_path / "a_mask.png") as found:
        assert found.size == (20, 30)
        assert found.mode == "L"
        assert set(np.unique(np.asarray(found)).tolist()) <= {0, 1, 2}


def test_bad_inputs_are_refused_in_one_sentence(trained, tmp_path):
    _, place, *_ = trained("colours")
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(tmp_path / "deep.png")
    (tmp_path / "text.png").write_text("hello")
    save(tmp_path / "scan.nii.gz", np.zeros((9, 9, 3), np.uint8))
    for name, words in {
        "deep.png": "deep.png has 16 bits a channel, but the network was trained on images of 8",
        "text.png": "text.png is not an image",
        "scan.nii.gz": "volume",
        "nothing": "neither a file nor a folder",
    }.items():
        result = predict(place, tmp_path / "out", tmp_path / name)
        assert result.exit_code == 2
        assert words in result.output
        assert len(result.output.strip().splitlines()) == 1
        assert "\n" not in result.output.strip()
