"""Written volumes: geometry and header codes of the input, types, values outside the slices; and the maps of several classes."""

import nibabel
import numpy as np
import pytest
import torch
from class_kinds import KINDS
from PIL import Image

from diffseg.config import Config
from diffseg.data.records import Record
from diffseg.data.slices import list_slices
from diffseg.prediction.mask_format import MaskFormat
from diffseg.prediction.mask_values import MaskValues
from diffseg.prediction.merging import merge_members
from diffseg.prediction.outputs import VolumeMaps, make_maps, write_pictures

SHAPE = (6, 5, 4)
TILTED = nibabel.affines.from_matvec(
    nibabel.eulerangles.euler2mat(0.3, -0.2, 0.1) @ np.diag([0.7, 0.7, 2.5]), [11, -5, 3]
)
OTHER = nibabel.affines.from_matvec(np.diag([0.7, 0.7, 2.5]), [1, 2, 3])


def volume(kind=nibabel.Nifti1Image, shape=SHAPE, dtype=np.int16, sform=(1, TILTED), qform=(1, TILTED)):
    image = kind(np.zeros(shape, dtype), np.eye(4))
    image.set_sform(sform[1], sform[0])
    image.set_qform(qform[1], qform[0])
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"somebody's scan"
    return image


def big_endian():
    image = nibabel.Nifti1Image(np.zeros(SHAPE, ">i2"), None, nibabel.Nifti1Header(endianness=">"))
    image.set_sform(TILTED, 1)
    image.set_qform(TILTED, 1)
    return image


def scaled():
    image = volume(dtype=np.float32)
    image.header.set_data_dtype(np.int16)
    image.header.set_slope_inter(0.5, 100)
    return image


def meaningful():
    """A stack of statistics, whose header says what they mean, and how they are to be displayed."""
    image = volume(shape=(*SHAPE, 2))
    image.header.set_intent("t test", (10,), name="t")
    image.header["cal_min"], image.header["cal_max"] = -40, 400
    return image


VOLUMES = {
    "both affines": volume,
    "both, different": lambda: volume(sform=(2, TILTED), qform=(1, OTHER)),
    "sform alone": lambda: volume(sform=(4, TILTED), qform=(0, TILTED)),
    "qform alone": lambda: volume(sform=(0, np.eye(4)), qform=(1, TILTED)),
    "none": lambda: volume(sform=(0, np.eye(4)), qform=(0, OTHER)),
    "NIfTI-2": lambda: volume(nibabel.Nifti2Image),
    "four dimensions": lambda: volume(shape=(*SHAPE, 3)),
    "one channel in four dimensions": lambda: volume(shape=(*SHAPE, 1)),
    "RGB": lambda: volume(dtype=np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])),
    "big endian": big_endian,
    "scaled": scaled,
    "statistics": meaningful,
    "two dimensions": lambda: volume(shape=SHAPE[:2]),
}


def labels(kind):
    return MaskValues.of(
        Config().with_leaves({k.replace("__", "."): v for k, v in KINDS[kind].items()}).data, MaskFormat()
    )


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("case", VOLUMES)
def test_volumes_keep_geometry_and_header_codes(case, axis, tmp_path):
    source = VOLUMES[case]()
    nibabel.save(source, tmp_path / "scan.nii.gz")
    original = nibabel.load(tmp_path / "scan.nii.gz")
    records = list_slices(Record("scan", "test", tmp_path / "scan.nii.gz", ()), axis)
    maps, draw = VolumeMaps(tmp_path / "scan.nii.gz", labels("regions")), np.random.default_rng(0)
    for record in records:
        shape = record.read_shape().size
        numbers, mean = draw.integers(0, 4, shape, dtype=np.uint8), draw.random(shape, dtype=np.float32)
        maps.add(record, {"mask": numbers, "mean-whole": mean})
    for path in maps.write(tmp_path, "out"):
        found = nibabel.load(path)
        assert type(found) is type(original)
        assert found.shape == original.shape[:3]
        assert found.get_data_dtype().newbyteorder("=") == (np.uint8 if "mask" in path.name else np.float32)
        assert np.array_equal(found.affine, original.affine)
        for own, other in zip(
            (found.get_sform(coded=True), found.get_qform(coded=True)),
            (original.get_sform(coded=True), original.get_qform(coded=True)),
            strict=True,
        ):
            assert own[1] == other[1]
            assert own[0] is other[0] is None or np.allclose(own[0], other[0], atol=1e-6)
        assert np.allclose(found.header.get_zooms(), original.header.get_zooms()[: found.ndim])
        assert found.header.get_xyzt_units()[0] == original.header.get_xyzt_units()[0]
        assert found.header.get_intent()[0] == "none"
        assert found.header["cal_max"] == 0
        assert found.dataobj.slope == 1
        assert found.dataobj.inter == 0
        place = np.moveaxis(np.asarray(found.dataobj).reshape(maps.header.grid), axis, 2)[..., -1]
        assert np.array_equal(place, np.array([0, 1, 2, 4])[numbers] if "mask" in path.name else mean)


def test_volumes_of_any_values_have_the_least_type(tmp_path):
    nibabel.save(volume(), tmp_path / "scan.nii.gz")
    (record, *_) = list_slices(Record("scan", "test", tmp_path / "scan.nii.gz", ()), 2)
    for value, kind in ((3, np.uint8), (300, np.int16), (40000, np.int32)):
        values = MaskValues.of(
            Config().with_leaves({"data.classes": [["a", value], ["background", 7]]}).data, MaskFormat(7)
        )
        maps = VolumeMaps(tmp_path / "scan.nii.gz", values)
        maps.add(record, {"mask": np.ones(SHAPE[:2], np.uint8)})
        (path,) = maps.write(tmp_path, "out")
        found = nibabel.load(path)
        assert found.get_data_dtype() == kind
        assert np.unique(np.asarray(found.dataobj)).tolist() == sorted(
            (7, value)
        )  # 7 in slices that were not predicted
        assert (np.asarray(found.dataobj)[:, :, 1:] == 7).all()


NAMES = {
    "binary": ["mean", "sd"],
    "classes": ["mean-one", "mean-two", "sd-one", "sd-two"],
    "regions": [f"{kind}-{name}" for kind in ("mean", "sd") for name in ("whole", "core", "enhancing")],
}
VALUES = {"binary": [0, 255], "classes": [0, 1, 2], "regions": [0, 1, 2, 4]}


@pytest.mark.parametrize("merge", ["mean", "staple"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_class_has_its_maps_and_all_share_the_masks(kind, merge, tiny, tmp_path):
    config = tiny(**KINDS[kind], inference__merge=merge, inference__threshold=0.4)
    draw = torch.Generator().manual_seed(0)
    count = len(NAMES[kind]) // 2
    probabilities = torch.randn(3, count + 1, 8, 9, generator=draw).mul(2).softmax(1)[:, 1:]
    prediction = merge_members(0, probabilities, torch.ones(()), config)
    written = write_pictures(tmp_path, "a", make_maps(prediction, config), MaskValues.of(config.data, MaskFormat()))
    kinds = ["mask", *NAMES[kind], "sample-0", "sample-1", "sample-2"]
    assert written == [tmp_path / f"a_{name}.png" for name in kinds]
    maps = {name: np.asarray(Image.open(path)).astype(int) for name, path in zip(kinds, written, strict=True)}
    for k in range(count):
        assert np.array_equal(maps[NAMES[kind][k]], (prediction.mean[k] * 255).round().int().numpy())
        assert np.array_equal(maps[NAMES[kind][count + k]], (prediction.sd[k] * 510).round().int().numpy())
    for name in ("mask", "sample-0", "sample-1", "sample-2"):
        assert set(np.unique(maps[name]).tolist()) <= set(VALUES[kind])
    if kind == "classes":
        shares = torch.cat([1 - prediction.mean.sum(0, keepdim=True), prediction.mean]).argmax(0)
        assert np.array_equal(maps["mask"], shares.numpy())
        assert np.array_equal(
            maps["sample-1"], (prediction.masks[1].int() * torch.tensor([1, 2])[:, None, None]).sum(0).numpy()
        )
    else:
        values = {"binary": [[255]], "regions": [[1, 2, 4], [1, 4], [4]]}[kind]
        for k, own in enumerate(values):
            assert (np.isin(maps["mask"], own) >= (prediction.mean[k] > 0.4).numpy()).all()
