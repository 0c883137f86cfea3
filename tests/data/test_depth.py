"""From the numbers in files to those of the network: by one map for all files, trained on or predicted."""

import json

import nibabel
import numpy as np
import pytest
import torch
from picture_files import RGB16, imagecodecs
from PIL import Image
from test_data import config, folder, write_image, write_mask
from test_predict import trained  # noqa: F401  a fixture
from volume_files import AFFINE, ORIENTATIONS, RNG, save, turned

from diffseg import data
from diffseg.config import Config
from diffseg.data.records import in_parallel
from diffseg.data.scaling import Scaling
from diffseg.errors import DataError
from diffseg.prediction.new_images import predict_files
from diffseg.prediction.resolution import reference_labels
from diffseg.training.batches import Batches

KINDS = ("mask", "mean", "sd", "sample-0", "sample-1")


def picture(path, kind: str):
    pixels = RNG.integers(0, 256, (20, 24, 3), dtype=np.uint8)
    if kind == "deep":
        path.write_bytes(imagecodecs.png_encode(RNG.integers(0, 65536, (20, 24, 3), dtype=np.uint16)))
    elif kind == "deep gray":
        Image.fromarray(RNG.integers(0, 65536, (20, 24), dtype=np.uint16)).save(path)
    elif kind == "large":
        Image.fromarray(np.tile(pixels, (2, 2, 1))).save(path)
    else:
        Image.fromarray(pixels[..., 0] if kind == "gray" else pixels).save(path)
    return path


def maps(output, name) -> dict[str, bytes]:
    return {kind: (output / f"{name}_{kind}.png").read_bytes() for kind in KINDS}


def deep_folder(root):
    folder(root)
    for path in root.rglob("images/*.png"):
        picture(path, "deep")


@pytest.mark.parametrize(
    ("depth", "settings"),
    [
        (8, {}),
        (8, {"experiment": "e1"}),
        (8, {"data__fit": "crop"}),
        (8, {"data__normalise": "case"}),
        (16, {}),
    ],
)
def test_a_prediction_does_not_depend_on_the_other_pictures(depth, settings, trained, tmp_path):  # noqa: F811
    """It is equal bit for bit beside pictures of other sizes, depths and channels."""
    if depth == 16:
        deep_folder(tmp_path / "data")
    settings = settings | ({"data__layout": "folder"} if depth == 16 else {})
    work, own, scaling = trained(tmp_path / "data" if depth == 16 else None, **settings)
    kinds = ["plain", "gray", "large", "plain", *(["deep", "deep gray"] if depth == 16 else [])]
    paths = [picture(tmp_path / f"{k}-{kind}.png", kind) for k, kind in enumerate(kinds)]
    predict_files(work, own, scaling, paths, tmp_path / "together", "cpu")
    for path in paths[-3:]:
        predict_files(work, own, scaling, [path], tmp_path / "alone", "cpu")
        assert maps(tmp_path / "alone", path.stem) == maps(tmp_path / "together", path.stem)


def test_sixteen_bits_are_refused_by_a_trial_of_eight(trained, tmp_path):  # noqa: F811
    work, own, scaling = trained()
    assert scaling.bits == 8
    path = picture(tmp_path / "deep.png", "deep gray")
    with pytest.raises(DataError, match=r"deep.png has 16 bits a channel, but the network was trained on images of 8"):
        predict_files(work, own, scaling, [picture(tmp_path / "a.png", "plain"), path], tmp_path / "out", "cpu")


def test_eight_bits_are_stretched_for_a_trial_of_sixteen_and_reported(tmp_path, caplog):
    deep_folder(tmp_path / "root")
    scaling = data.load(config("folder"), tmp_path / "root").train.scaling
    assert scaling.bits == 16
    record = data.find(config("folder"), tmp_path / "root").records[0]
    Image.fromarray((RGB16 // 257).astype(np.uint8)).resize((24, 20)).save(record.image)
    found = data.load_unlabelled(config("folder", fit="crop", size=8), [record], scaling)
    assert found.images.values.dtype == torch.uint16
    assert (np.asarray(Image.open(record.image)).transpose(2, 0, 1) * np.uint16(257) == found.images[0].numpy()).all()
    assert f"{record.image} has 8 bits a channel and is stretched to the 16" in caplog.text


def test_a_picture_outside_of_the_training_range_is_reported(tmp_path, caplog):
    deep_folder(tmp_path / "root")
    scaling = data.load(config("folder"), tmp_path / "root").train.scaling
    path = tmp_path / "dark.png"
    for divisor, words in ((1, None), (200, "dark.png does not fit the training images")):
        caplog.clear()
        pixels = RNG.integers(0, 65536, (20, 24, 3)) // divisor
        path.write_bytes(imagecodecs.png_encode(pixels.astype(np.uint16)))
        data.load_unlabelled(config("folder"), [data.Record("dark", "test", path, ())], scaling)
        assert (words in caplog.text) if words else not caplog.records


def scans(root, kinds, names="abcdef"):
    """Write volumes and masks of several types; kinds: (type, least, greatest intensity) in turn."""
    for k, name in enumerate(names):
        kind, low, high = kinds[k % len(kinds)]
        numbers = RNG.uniform(low, high, (20, 24, 3))
        numbers = numbers.astype(np.float32) if kind == "f4" else numbers.round().astype(kind)
        save(root / "images" / f"{name}.nii.gz", numbers)
        mask = np.zeros(numbers.shape, np.uint8)
        mask[4:12, 6:18] = 1
        save(root / "masks" / f"{name}.nii.gz", mask)


def test_volumes_of_several_types_become_the_same_numbers(tmp_path):
    """A constant block of the intensity 100 has one scaled value in all volumes, also from the cache."""
    scans(tmp_path / "root", [("u1", 0, 255), ("f4", 0, 3000), ("i2", 0, 1000)])
    for path in (tmp_path / "root/images").iterdir():
        image = nibabel.load(path)
        numbers = np.asarray(image.dataobj).copy()
        numbers[:8, :8] = 100
        save(path, numbers)
    settings = config("folder", channels=1, fit="crop")
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        found = data.load(settings, tmp_path / "root", cache)
        assert found.train.scaling.volumes[2] == 16
        scaled = [
            split.scale(image[None])[0, 0, :8, :8] for split in (found.train, found.test) for image in split.images
        ]
        assert len(scaled) == 18
        assert torch.cat(scaled).unique().numel() == 1


def test_a_new_volume_becomes_pixels_as_the_training_volumes_did(trained, tmp_path):  # noqa: F811
    """Equal intensities give equal maps, whatever their type, alone or beside others."""
    scans(tmp_path / "root", [("u1", 0, 255), ("f4", 0, 3000)])
    work, own, scaling = trained(tmp_path / "root", data__channels=1)
    assert Scaling(**json.loads(json.dumps(scaling.__dict__))).pixel_format.quantisation.bits == 16
    numbers = RNG.integers(0, 255, (20, 24, 3))
    paths = [save(tmp_path / f"{kind}/{kind}.nii.gz", numbers.astype(kind)) for kind in ("u1", "i2", "f4", "f8")]
    for path in paths:
        predict_files(work, own, scaling, [path], tmp_path / "alone" / path.parent.name, "cpu")
    predict_files(work, own, scaling, paths, tmp_path / "together", "cpu")
    means = [
        np.asarray(nibabel.load(place / f"{path.parent.name}_mean.nii.gz").dataobj)
        for path in paths
        for place in (tmp_path / "alone" / path.parent.name, tmp_path / "together")
    ]
    names = [path.parent.name for path in paths for _ in range(2)]
    for name, mean in zip(names, means, strict=True):
        assert np.array_equal(mean, means[names.index(name)])
    with pytest.raises(DataError, match="is a picture, but the network was trained on volumes"):
        predict_files(work, own, scaling, [picture(tmp_path / "a.png", "gray")], tmp_path / "out", "cpu")


def test_a_volume_is_refused_by_a_trial_of_pictures(trained, tmp_path):  # noqa: F811
    work, own, scaling = trained()
    path = save(tmp_path / "a.nii.gz", np.zeros((20, 24, 3), np.uint8))
    with pytest.raises(DataError, match="is a volume, but the network was trained on pictures"):
        predict_files(work, own, scaling, [path], tmp_path / "out", "cpu")


def cases(normalised: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and deviation [C] of [B, C, H, W]."""
    return normalised.mean((0, 2, 3)), normalised.std((0, 2, 3), correction=0)


@pytest.mark.parametrize("depth", [8, 16])
def test_every_picture_gets_its_own_mean_and_deviation(depth, tmp_path, tiny):
    """A crop is normalised by the statistics of the whole picture."""
    (deep_folder if depth == 16 else folder)(tmp_path / "root")
    settings = config("folder", normalise="case", fit="crop", size=8)
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        found = data.load(settings, tmp_path / "root", cache).train
        for k in range(3):
            mean, sd = cases(found.prepare_inputs(found.images[k][None], torch.tensor([k])))
            assert torch.allclose(mean, torch.zeros(3), atol=1e-4)
            assert torch.allclose(sd, torch.ones(3), atol=1e-4)
        part = found.subset(torch.tensor([2]))
        corner = part.images[0][None, :, :8, :8]
        assert torch.equal(
            part.prepare_inputs(corner, torch.tensor([0])),
            found.prepare_inputs(found.images[2][None], torch.tensor([2]))[..., :8, :8],
        )
        crops = found.crop(torch.zeros(3, 2, dtype=torch.long), 8)
        assert torch.equal(
            crops.prepare_inputs(crops.images[1][None], torch.tensor([1])),
            found.prepare_inputs(found.images[1][None, :, :8, :8], torch.tensor([1])),
        )
    config_of = tiny(data__layout="folder", data__normalise="case", data__train_images=None, data__test_images=None)
    found = data.load(config_of.data, tmp_path / "root").train
    batches = Batches(found, config_of)
    first = batches._indices(0)[:1]
    assert torch.equal(batches(0)[0][0], found.prepare_inputs(found.images[int(first)][None], first)[0])


def test_a_dark_scan_is_displayed_by_its_own_range(tmp_path):
    scans(tmp_path, [("u2", 0, 300)])
    found = data.load(config("folder", channels=1, normalise="case"), tmp_path).test
    shown = found.display_image(0)
    assert shown.shape == (3, 16, 16) or shown.shape == (1, 16, 16)
    assert (float(shown.min()), float(shown.mean())) == pytest.approx((50, 127), abs=40)
    assert float(shown.max()) > 180


def test_a_constant_picture_becomes_zero(tmp_path):
    folder(tmp_path)
    Image.new("RGB", (24, 20), (9, 90, 200)).save(tmp_path / "train/images/train0.png")
    found = data.load(config("folder", normalise="case"), tmp_path).train
    assert found.prepare_inputs(found.images[0][None], torch.tensor([0])).abs().max() < 1e-5


def test_slices_are_normalised_by_their_volume(tmp_path):
    """The whole volume counts, also if data.train_images leaves slices out, and whatever its unit."""
    scans(tmp_path / "root", [("u1", 0, 255), ("f4", 0, 1e6), ("i2", -1000, 1000), ("f4", 0, 0.01)])
    for limit in (None, 7):
        settings = config("folder", channels=1, normalise="case", fit="crop", train_images=limit)
        found = data.load(settings, tmp_path / "root", tmp_path / "cache")
        for split in (found.train, found.test):
            for k, name in enumerate(split.names):
                volume, index = name.split("/")
                numbers = np.asarray(nibabel.load(tmp_path / f"root/images/{volume}.nii.gz").dataobj, np.float64)
                expected = (numbers[:, :, int(index)] - numbers.mean()) / numbers.std()
                inputs = split.prepare_inputs(split.images[k][None], torch.tensor([k]))[0, 0].numpy()
                assert np.abs(inputs - expected).max() < 0.02


@pytest.mark.parametrize("settings", [{"data__normalise": "case"}, {"data__normalise": "case", "data__fit": "crop"}])
def test_cases_are_predicted_as_they_were_evaluated(settings, trained, tmp_path):  # noqa: F811
    from diffseg import trial

    work, own, scaling = trained(inference__resolution="original", **settings)
    outcome = trial.run(work, tmp_path / "data", own, device="cpu")
    predict_files(work, own, scaling, [tmp_path / "data/test/images"], tmp_path / "out", "cpu")
    for name in ("test0", "test1"):
        mask, truth = (
            np.asarray(Image.open(path)) > 0
            for path in (tmp_path / "out" / f"{name}_mask.png", tmp_path / "data/test/masks" / f"{name}.png")
        )
        dice = 2 * (mask & truth).sum() / max(1, mask.sum() + truth.sum())
        (expected,) = (row["value"] for row in outcome.images if (row["image"], row["metric"]) == (name, "dice"))
        assert dice == pytest.approx(expected)


@pytest.mark.parametrize("settings", [{}, {"data__axis": 0}, {"data__normalise": "case"}])
def test_predictions_keep_the_geometry_in_all_orientations(settings, trained, tmp_path):  # noqa: F811
    """A volume in any of 48 orientations gets the same prediction, with its own affine and shape."""
    from unittest import mock

    scans(tmp_path / "root", [("u1", 0, 255)])
    work, own, scaling = trained(
        tmp_path / "root", data__channels=1, inference__ensemble=1, inference__steps=1, **settings
    )
    numbers = RNG.integers(0, 255, (6, 7, 3)).astype(np.uint8)
    paths = [
        save(tmp_path / f"{k:02d}.nii.gz", *turned(numbers, AFFINE, ORIENTATIONS[k])) for k in range(len(ORIENTATIONS))
    ]

    def thresholded(split):
        """In place of a network: the pixels themselves."""
        for index, image in enumerate(split.images):
            mean = image[0].float() / 255
            height, width = split.originals[index]
            mean = torch.nn.functional.interpolate(mean[None, None], (height, width))[0, 0]
            yield mock.Mock(index=index, mean=mean[None], sd=mean[None] * 0, masks=mean[None, None] > 0.5)

    work = work.with_leaves({"data.size": 8, "data.fit": "crop"})
    with (
        mock.patch("diffseg.prediction.new_images._load_predictor", return_value=thresholded),
        mock.patch("diffseg.data.decoding.padded_size", lambda size, config: size),
    ):
        predict_files(work, own, scaling, paths, tmp_path / "out", "cpu")
    for path in paths:
        original, written = nibabel.load(path), nibabel.load(tmp_path / "out" / f"{path.name[:2]}_mean.nii.gz")
        assert written.shape == original.shape
        assert np.array_equal(written.affine, original.affine)
        if "data__normalise" not in settings:
            assert np.allclose(np.asarray(written.dataobj), np.asarray(original.dataobj) / 255)


@pytest.mark.parametrize("shape", [(20, 24), (20, 24, 1)])
def test_predictions_of_two_dimensional_files_have_their_shape(shape, trained, tmp_path):  # noqa: F811
    scans(tmp_path / "root", [("u1", 0, 255)])
    work, own, scaling = trained(tmp_path / "root", data__channels=1)
    path = save(tmp_path / "flat.nii.gz", RNG.integers(0, 255, shape).astype(np.uint8))
    predict_files(work, own, scaling, [path], tmp_path / "out", "cpu")
    assert nibabel.load(tmp_path / "out/flat_mask.nii.gz").shape == shape


def change(path):
    write_image(path)


def replace_by_another(path):
    """Replace a file by another one of the same size and time."""
    import os

    state = path.stat()
    content = bytearray(path.read_bytes())
    content[-30] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def remove(path):
    path.unlink()


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("kind", ["images", "masks"])
@pytest.mark.parametrize("spoil", [change, replace_by_another, remove], ids=lambda spoil: spoil.__name__)
def test_files_that_have_changed_since_they_were_decoded_are_refused(spoil, kind, cached, tmp_path):
    folder(tmp_path / "root")
    for _ in range(1 + cached):
        found = data.load(config("folder"), tmp_path / "root", tmp_path / "cache" if cached else None).test
    assert np.array_equal(found.record(1).read_masks()[0], found.record(0).read_masks()[0])
    spoil(tmp_path / f"root/test/{kind}/test1.png")
    with pytest.raises(DataError, match=r"test1.png (has changed since image test1 was decoded|cannot be read)"):
        found.record(1)
    assert found.record(0).name == "test0"


@pytest.mark.parametrize("cached", [False, True])
def test_new_files_do_not_shift_the_masks_that_predictions_are_compared_with(cached, tmp_path):
    """One new image comes before all others; another has no mask, which a new listing would refuse."""
    folder(tmp_path / "root")
    for _ in range(1 + cached):
        found = data.load(config("folder"), tmp_path / "root", tmp_path / "cache" if cached else None).test
    write_image(tmp_path / "root/test/images/a.png")
    write_mask(tmp_path / "root/test/masks/a.png", (20, 24))
    write_image(tmp_path / "root/test/images/without.png")
    assert [found.record(k).image.stem for k in range(2)] == list(found.names) == ["test0", "test1"]
    assert found.subset(torch.tensor([1])).record(0).image.stem == "test1"


@pytest.mark.parametrize("cached", [False, True])
def test_records_travel_with_the_split_and_the_folder_is_not_listed_again(cached, tmp_path, monkeypatch):
    """Neither a load from the cache nor an evaluation at original resolution lists it; an added image shifts no mask."""
    settings = Config().with_leaves({"inference.resolution": "original"})
    root = tmp_path / "root"
    folder(root)
    write_mask(root / "test/masks/test1.png", values=(0, 0))
    if cached:
        data.load(config("folder"), root, tmp_path / "cache")
    else:
        found = data.load(config("folder"), root).test
    monkeypatch.setitem(data.LAYOUTS, "folder", data.Layout(lambda *_: pytest.fail("the folder is listed again")))
    monkeypatch.setattr("os.walk", lambda *_, **__: pytest.fail("the folder is walked through again"))
    if cached:
        found = data.load(config("folder"), root, tmp_path / "cache").test
    write_image(root / "test/images/a.png")
    write_mask(root / "test/masks/a.png", values=(255, 255))
    marked = [int(reference_labels(found, k, settings).sum()) for k in range(2)]
    assert marked == [8 * 12, 0]


def test_touched_files_count_as_unchanged(tmp_path):
    folder(tmp_path / "root")
    found = data.load(config("folder"), tmp_path / "root").test
    found.record(0).image.touch()
    assert found.record(0).name == "test0"


@pytest.mark.parametrize("fit", ["resize", "crop"])
@pytest.mark.parametrize("kind", ["deep", "large"])
def test_files_that_are_replaced_while_they_are_read_are_refused(kind, fit, tmp_path, monkeypatch):
    """After all headers are read, a picture of more bits, or of another size with its mask, takes its place."""
    folder(tmp_path)

    def interrupted(function, records, on_progress=None):
        found = in_parallel(function, records, on_progress)
        picture(tmp_path / "train/images/train1.png", kind)
        if kind == "large":
            write_mask(tmp_path / "train/masks/train1.png", (40, 48))
        return found

    monkeypatch.setattr("diffseg.data.decoding.in_parallel", interrupted)
    with pytest.raises(DataError, match=r"train1.png has changed while it was read"):
        data.load(config("folder", fit=fit), tmp_path)
