"""NIfTI volumes: masks are turned by their affines, slices lie across the largest spacing, bad headers cost no memory."""

import gzip
import tracemalloc

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_data import config
from volume_files import AFFINE, ORIENTATIONS, RNG, edited, save, sentence, turned

from diffseg import data
from diffseg.data import nifti, quantisation, volumes
from diffseg.data.check import check
from diffseg.data.quantisation import Quantisation
from diffseg.errors import DataError

SHAPE = (5, 6, 4)
NUMBERS = RNG.integers(-1000, 1000, SHAPE).astype(np.int16)
LABELS = (NUMBERS > 500).astype(np.uint8)
TILTED = nibabel.affines.from_matvec(
    nibabel.eulerangles.euler2mat(0.3, -0.2, 0.1) @ np.diag([0.7, 0.7, 2.5]), [1, 2, 3]
)


@pytest.mark.parametrize("affine", [AFFINE, TILTED], ids=["straight", "tilted"])
@pytest.mark.parametrize(
    "orientation", ORIENTATIONS, ids=lambda turn: "".join(f"{int(a)}{'+' if s > 0 else '-'}" for a, s in turn)
)
def test_a_mask_in_any_orientation_is_turned_to_that_of_its_volume(orientation, affine, tmp_path):
    image = save(tmp_path / "image.nii", NUMBERS, affine)
    mask = save(tmp_path / "mask.nii.gz", *turned(LABELS, affine, orientation))
    assert np.array_equal(volumes.read_labels(mask, image), LABELS)


SHIFTED, STRETCHED, MIRRORED = AFFINE.copy(), AFFINE.copy(), AFFINE.copy()
SHIFTED[0, 3] += 0.35
STRETCHED[:3, :3] *= 1.1
MIRRORED[0] *= -1


@pytest.mark.parametrize(
    ("numbers", "affine", "words"),
    [
        (LABELS[:, :, :3], AFFINE, r"mask.nii is 5 × 6 × 3, but its volume .*image.nii is 5 × 6 × 4"),
        (LABELS.transpose(1, 0, 2), AFFINE, r"mask.nii is 6 × 5 × 4, but its volume .*image.nii is 5 × 6 × 4|origin|direction"),
        (LABELS, SHIFTED, r"has the origin \[11.35, .*image.nii has the origin \[11.0, -5.0, 3.0\]"),
        (LABELS, STRETCHED, r"has voxels of 0.77 × 0.77 × 2.75 mm, .* has voxels of 0.7 × 0.7 × 2.5"),
        (LABELS, TILTED, r"has the directions \[\["),
        (LABELS, MIRRORED, r"has the origin \[-11.0, .* has the origin \[11.0"),
    ],
)  # fmt: skip
def test_a_mask_on_another_grid_is_refused(numbers, affine, words, tmp_path):
    image, mask = save(tmp_path / "image.nii", NUMBERS), save(tmp_path / "mask.nii", numbers, affine)
    with pytest.raises(DataError, match=words) as error:
        volumes.read_labels(mask, image)
    assert "resample the first to the second" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("first", "second"), [(None, AFFINE), (AFFINE, None), (None, None)])
def test_without_an_affine_shapes_are_compared(first, second, tmp_path):
    image, mask = save(tmp_path / "image.nii", NUMBERS, first), save(tmp_path / "mask.nii", LABELS, second)
    assert np.array_equal(volumes.read_labels(mask, image), LABELS)
    other = save(tmp_path / "other.nii", LABELS.transpose(1, 0, 2).copy(), second)
    with pytest.raises(DataError, match="is 6 × 5 × 4, but its volume"):
        volumes.read_labels(other, image)


def test_rounded_affines_are_one_grid(tmp_path):
    """Programs write affines in decimals or as quaternions."""
    image = save(tmp_path / "image.nii", NUMBERS, TILTED, sform_code=0, qform_code=1)
    mask = save(tmp_path / "mask.nii", LABELS, TILTED.round(4))
    assert np.array_equal(volumes.read_labels(mask, image), LABELS)


def spaced(*spacing) -> np.ndarray:
    return np.diag([*spacing, 1.0])


@pytest.mark.parametrize(
    ("shape", "spacing", "wanted", "axis"),
    [
        ((4, 5, 6), (1, 1, 1), None, 2),
        ((4, 5, 6), (1, 1, 3), None, 2),
        ((4, 5, 6), (3, 1, 1), None, 0),
        ((4, 5, 6), (1, 3, 1), None, 1),
        ((4, 5, 6), (1, 3, 3.0000001), None, 2),
        ((4, 5, 6), (3.0000001, 3, 1), None, 1),
        ((4, 5, 6), (3, 1, 1), 1, 1),
        ((1, 5, 6), (1, 1, 3), None, 0),
        ((4, 5, 1), (3, 1, 1), None, 2),
    ],
)
def test_slices_lie_across_the_largest_spacing(shape, spacing, wanted, axis, tmp_path):
    path = save(tmp_path / "a.nii", np.zeros(shape, np.uint8), spaced(*spacing))
    assert nifti.read_header(path).slice_axis(wanted) == axis


@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_a_data_set_is_cut_into_slices_across_the_axis(axis, tmp_path):
    for name in "abcdef":
        numbers = RNG.integers(0, 255, (20, 3, 24)).astype(np.uint8)
        mask = (numbers > 99).astype(np.uint8)
        save(tmp_path / "images" / f"{name}.nii.gz", numbers, spaced(1, 4, 1))
        save(tmp_path / "masks" / f"{name}.nii.gz", *turned(mask, spaced(1, 4, 1), ORIENTATIONS[13]))
    found = data.load(config("folder", channels=1, axis=axis, fit="crop", size=8), tmp_path)
    said = check(config("folder", channels=1, axis=axis), tmp_path).suspicions[0]
    assert f"those of 6 volumes across axis {1 if axis is None else axis}, " in said
    assert ("largest spacing (the last of equal ones)" in said) == (axis is None)
    (count, shape) = {0: (20, (8, 24)), 1: (3, (20, 24)), 2: (24, (20, 8))}[1 if axis is None else axis]
    assert len(found.train.names) + len(found.test.names) == 6 * count
    for split in (found.train, found.test):
        for image, mask in zip(split.images, split.masks, strict=True):
            assert image.shape[1:] == shape
            assert bool(((image > 99) == mask.bool()).all())


@pytest.mark.parametrize(
    ("shape", "channels"),
    [((20, 24), 1), ((20, 24, 1), 1), ((20, 24, 1, 3), 3), ((20, 24, 1, 1), 1), ((1, 20, 24), 1)],
)
def test_two_dimensional_files_are_read(shape, channels, tmp_path):
    for name in "abcdef":
        numbers = RNG.integers(0, 255, shape).astype(np.uint8)
        mask = (numbers > 99).astype(np.uint8)
        save(tmp_path / "images" / f"{name}.nii", numbers, spaced(1, 1, 9))
        save(tmp_path / "masks" / f"{name}.nii", mask[..., 0] if mask.ndim == 4 else mask, spaced(1, 1, 9))
    found = data.load(config("folder", channels=channels, fit="crop"), tmp_path)
    assert (len(found.train.names), len(found.test.names)) == (5, 1)
    assert found.train.images[0].shape == (channels, 20, 24)
    assert bool(((found.train.images[0][:1] > 99) == found.train.masks[0].bool()).all())


def test_a_two_dimensional_file_may_have_a_flat_third_axis(tmp_path):
    path = edited(
        save(tmp_path / "a.nii", LABELS[:, :, 0]), pixdim=[1, 0.7, 0.7, 0, 0, 0, 0, 0], sform_code=0, qform_code=1
    )
    assert nifti.read_header(path).grid == (5, 6, 1)
    assert np.array_equal(volumes.read_labels(path, path), LABELS[:, :, :1])


def test_colours_become_channels(tmp_path):
    colours = RNG.integers(0, 255, (*SHAPE, 3), dtype=np.uint8)
    kind = np.dtype([(name, "u1") for name in "RGB"])
    path = save(tmp_path / "a.nii", colours.view(kind)[..., 0])
    assert nifti.read_header(path).channels == 3
    assert np.array_equal(volumes.read_intensities(path), colours)
    assert quantisation.pixel_bits(path, None) == 8
    kind = np.dtype([(name, "u1") for name in "RGBA"])
    alpha = np.concatenate([colours, np.full((*SHAPE, 1), 255, np.uint8)], -1)
    assert np.array_equal(volumes.read_intensities(save(tmp_path / "b.nii", alpha.view(kind)[..., 0])), colours)
    alpha[0, 0, 0, 3] = 9
    with pytest.raises(DataError, match="has an alpha channel"):
        volumes.read_intensities(save(tmp_path / "c.nii", alpha.view(kind)[..., 0]))


@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "u4", "i4", "i8", "f4", "f8", ">i2", ">f4"])
@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
def test_intensities_of_every_type_are_read(kind, ending, tmp_path):
    numbers = RNG.integers(0, 100, SHAPE).astype(kind)
    image = nibabel.Nifti1Image(numbers, AFFINE, nibabel.Nifti1Header(endianness=">" if kind.startswith(">") else "<"))
    image.header.set_data_dtype(numbers.dtype)
    path = tmp_path / f"a.{ending}"
    nibabel.save(image, path)
    assert np.array_equal(volumes.read_intensities(path), numbers)
    assert np.array_equal(volumes.read_intensities(path), np.asarray(nibabel.load(path).dataobj))


def test_scaled_intensities_and_nifti_2_are_read(tmp_path):
    path = edited(save(tmp_path / "a.nii", NUMBERS), scl_slope=0.5, scl_inter=-3)
    assert np.allclose(volumes.read_intensities(path), NUMBERS * 0.5 - 3)
    assert nifti.read_header(path).scaled
    nibabel.save(nibabel.Nifti2Image(NUMBERS, AFFINE), tmp_path / "b.nii.gz")
    assert np.array_equal(volumes.read_intensities(tmp_path / "b.nii.gz"), NUMBERS)


def cut(path, share=0.7):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def flip(path):
    """Flip one bit of the compressed content."""
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)


def as_dicom(path):
    path.write_bytes(bytes(128) + b"DICM" + bytes(400))


def as_pair(path):
    edited(path, magic=b"ni1")


def plainly(path):
    path.write_bytes(gzip.decompress(path.read_bytes()))


NAN = np.eye(4)
NAN[1, 1] = np.nan
FAULTS = {  # a fault, by what it does to a sound file, and what is said
    "empty": (lambda path: path.write_bytes(b""), "is not a NIfTI volume"),
    "text": (lambda path: path.write_text("hello " * 200), "is not a NIfTI volume"),
    "dicom": (as_dicom, "is not a NIfTI volume"),
    "header alone": (lambda path: cut(path, 0.1), "is not a NIfTI volume|is truncated or damaged"),
    "pair": (as_pair, "is not a NIfTI volume .a single file"),
    "cut": (cut, "is truncated or damaged|is not a NIfTI volume"),
    "dimensions": (lambda path: edited(path, dim=[3, 30000, 30000, 30000, 1, 1, 1, 1]), "has the shape 30000 × 30000 × 30000, "),
    "slices": (lambda path: edited(path, dim=[3, 5, 6, 30000, 1, 1, 1, 1]), "has the shape 5 × 6 × 30000, which needs"),
    "channels": (lambda path: edited(path, dim=[4, 5, 6, 4, 32767, 1, 1, 1]), "which needs"),
    "no voxel": (lambda path: edited(path, dim=[3, 5, 0, 4, 1, 1, 1, 1]), "has the shape 5 × 0 × 4"),
    "negative dimension": (lambda path: edited(path, dim=[3, 5, -6, 4, 1, 1, 1, 1]), "has the shape 5 × -6 × 4"),
    "one dimension": (lambda path: edited(path, dim=[1, 5, 1, 1, 1, 1, 1, 1]), "has the shape 5:"),
    "time": (lambda path: edited(path, dim=[5, 5, 6, 2, 1, 2, 1, 1]), "has the shape 5 × 6 × 2 × 1 × 2"),
    "eight dimensions": (lambda path: edited(path, dim=[9, 5, 6, 4, 1, 1, 1, 1]), "is not a NIfTI volume|has the shape 1280"),
    "no spacing": (lambda path: edited(path, pixdim=[1, 0.7, 0, 2.5, 0, 0, 0, 0]), "has voxels of 0.7 × 0 × 2.5 mm"),
    "negative spacing": (lambda path: edited(path, pixdim=[1, 0.7, -0.7, 2.5, 0, 0, 0, 0]), "has voxels of 0.7 × -0.7 × 2.5 mm"),
    "spacing that is no number": (lambda path: edited(path, pixdim=[1, np.nan, 0.7, 2.5, 0, 0, 0, 0]), "has voxels of nan"),
    "affine that is no number": (lambda path: edited(path, srow_y=[np.nan, 0, 0, 0]), "has an affine that is no place in space"),
    "flat affine": (lambda path: edited(path, srow_y=[0, 0, 0, 0]), "has an affine that is no place in space"),
    "quaternion": (lambda path: edited(path, sform_code=0, quatern_b=2, quatern_c=2, qform_code=1), "has no orientation"),
    "type": (lambda path: edited(path, datatype=999), "is not a NIfTI volume|kind"),
    "offset": (lambda path: edited(path, vox_offset=1e9), "which needs"),
    "slope": (lambda path: edited(path, scl_slope=1, scl_inter=np.nan), "is not a NIfTI volume"),
}  # fmt: skip


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_refused_in_one_sentence_and_costs_no_memory(fault, ending, tmp_path, caplog, capfd):
    spoil, words = FAULTS[fault]
    path = save(tmp_path / f"a.{ending}", NUMBERS)
    spoil(path)
    tracemalloc.start()
    with pytest.raises(DataError, match=words) as error:
        volumes.read_intensities(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e7
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("spoil", "words"), [(flip, "is truncated or damaged"), (plainly, "is not a NIfTI volume")])
def test_compressed_files_are_checked_to_their_end(spoil, words, tmp_path):
    path = save(tmp_path / "a.nii.gz", NUMBERS)
    spoil(path)
    with pytest.raises(DataError, match=words):
        volumes.read_intensities(path)


@pytest.mark.parametrize("numbers", [LABELS * 0.5, np.where(LABELS, np.nan, 0), np.stack([LABELS] * 2, -1)])
def test_a_mask_that_is_no_segmentation_is_refused(numbers, tmp_path):
    image = save(tmp_path / "image.nii", NUMBERS)
    with pytest.raises(DataError, match="is no segmentation"):
        volumes.read_labels(save(tmp_path / "mask.nii", np.float32(numbers)), image)


@pytest.mark.parametrize("numbers", [np.zeros(SHAPE, np.complex64)])
def test_complex_numbers_are_refused(numbers, tmp_path):
    with pytest.raises(DataError, match="has numbers of the kind"):
        nifti.read_header(save(tmp_path / "a.nii", numbers))


def scan(low, high, kind, whole=True):
    numbers = RNG.uniform(low, high, SHAPE)
    numbers.flat[0], numbers.flat[1] = low, high
    return (numbers.round() if whole else numbers).astype(kind)


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ([("u1", 0, 255)], (0, 1, 8)),
        ([("u1", 0, 255), ("u2", 0, 3000)], (0, 1, 16)),
        ([("i2", 0, 255)], (-32768, 1, 16)),
        ([("u1", 0, 255), ("i2", -1024, 3000)], (-32768, 1, 16)),
        ([("u1", 0, 255), ("f4", 0, 3000)], (-32768, 1, 16)),
        ([("u2", 0, 65535), ("f4", 0, 3000)], (0, 1, 16)),
        ([("i4", -1024, 3000)], (-32768, 1, 16)),
        ([("u4", 0, 60000)], (0, 1, 16)),
    ],
)
def test_whole_intensities_keep_their_steps_in_all_volumes(kinds, expected, tmp_path):
    paths = [save(tmp_path / f"{k}.nii", scan(low, high, kind)) for k, (kind, low, high) in enumerate(kinds)]
    found = quantisation.fit_quantisation(paths)
    assert (found.offset, found.gain, found.bits) == expected
    for path in paths:
        pixels = quantisation.read_pixels(path, found)
        assert np.array_equal(pixels.astype(float) + found.offset, volumes.read_intensities(path))
        assert pixels.dtype == (np.uint8 if found.bits == 8 else np.uint16)


def test_fractions_are_mapped_equally_in_all_volumes(tmp_path):
    """A volume of whole numbers beside one of fractions: equal intensities become equal pixels."""
    whole, fractions = scan(0, 255, "u1"), scan(0, 3000, "f4", whole=False)
    fractions[2] = whole[2]
    paths = [save(tmp_path / "a.nii", whole), save(tmp_path / "b.nii", fractions)]
    found = quantisation.fit_quantisation(paths)
    first, second = (quantisation.read_pixels(path, found) for path in paths)
    assert np.array_equal(first[2], second[2])
    assert np.abs(second / found.gain + found.offset - fractions)[fractions < 2900].max() < 3000 / 65535
    assert int(first.max()) < 65535 * 0.1


def test_volumes_without_a_common_unit_are_reported(tmp_path, caplog):
    paths = [save(tmp_path / f"{k}.nii", scan(0, high, "f4", whole=False)) for k, high in enumerate((1, 3, 1000))]
    quantisation.fit_quantisation(paths[:2])
    assert not caplog.records
    quantisation.fit_quantisation(paths)
    assert "data.normalise=case gives each its own" in caplog.text


@settings(max_examples=40)
@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e3), st.sampled_from([8, 16]), st.integers(0, 2**32 - 1))
def test_a_quantisation_is_monotone_and_clipped(offset, gain, bits, seed):
    numbers = np.sort(np.random.default_rng(seed).normal(offset, 2**bits / gain, 60)).reshape(1, 1, 60)
    pixels = Quantisation(offset, gain, bits)(numbers).ravel().astype(int)
    assert (np.diff(pixels) >= 0).all()
    inside = (pixels > 0) & (pixels < 2**bits - 1)
    assert (np.abs(pixels - (numbers.ravel() - offset) * gain)[inside] <= 0.5 + 1e-6).all()


def test_values_that_are_not_finite_are_refused(tmp_path):
    path = save(tmp_path / "a.nii", np.where(LABELS, np.inf, 0.5).astype(np.float32))
    with pytest.raises(DataError, match="has values that are not finite"):
        quantisation.fit_quantisation([path])
    with pytest.raises(DataError, match="has values that are not finite"):
        quantisation.read_pixels(path, None)


@settings(max_examples=100)
@given(ending=st.sampled_from(["nii", "nii.gz"]), draws=st.data())
def test_any_damage_is_refused_in_one_sentence(ending, draws, tmp_path_factory):
    """Overwrite bytes of the header and of the compressed file, or cut off the end."""
    path = save(tmp_path_factory.mktemp("damaged") / f"a.{ending}", NUMBERS)
    content = bytearray(path.read_bytes() if ending == "nii" else gzip.decompress(path.read_bytes()))
    for _ in range(draws.draw(st.integers(1, 4))):
        content[draws.draw(st.integers(0, 351))] = draws.draw(st.integers(0, 255))
    if ending == "nii.gz":
        content = bytearray(gzip.compress(content))
        if draws.draw(st.booleans()):
            content[draws.draw(st.integers(0, len(content) - 1))] ^= draws.draw(st.integers(1, 255))
    path.write_bytes(content[: draws.draw(st.integers(len(content) // 2, len(content)))])
    said = sentence(lambda: (quantisation.read_pixels(path, None), volumes.read_labels(path, path)), path)
    assert str(path) in said
    assert "\n" not in said


@pytest.mark.parametrize("normalise", ["range", "case"])
@pytest.mark.parametrize(("types", "bits"), [("uint8 float32", (16,)), ("int16 uint8", (16,)), ("uint8 uint8", (8,))])
def test_check_reads_volumes_of_several_types_as_training_does(types, bits, normalise, tmp_path):
    """All volumes share one map, so nothing is reported about the types of their files."""
    for name, kind in zip("abcdef", 3 * types.split(), strict=True):
        numbers = RNG.integers(0, 255, (20, 24, 3)).astype(kind)
        save(tmp_path / "images" / f"{name}.nii", numbers + np.array(0.5, kind) * (kind == "float32"))
        save(tmp_path / "masks" / f"{name}.nii", (numbers > 99).astype(np.uint8))
    found = check(config("folder", channels=1, normalise=normalise), tmp_path)
    assert not found.problems
    assert not any("bits" in said for said in found.suspicions)
    if normalise == "range":
        assert found.splits["train"].bits == found.splits["test"].bits == bits


@pytest.mark.parametrize(
    ("value", "kind"),
    [(2**32 + 2, np.int64), (2**32 - 1, np.uint32), (2.0**32 + 2, np.float64), (2.0**70, np.float32), (-3, np.int16)],
)
def test_a_label_that_no_segmentation_has_is_refused_with_its_value(value, kind, tmp_path):
    numbers = np.zeros((4, 5, 6), kind)
    numbers[1, 2, 3] = value
    path = tmp_path / "mask.nii"
    nibabel.save(nibabel.Nifti1Image(numbers, AFFINE, dtype=kind), path)
    with pytest.raises(DataError, match=rf"has the label {value:.0f}: labels are whole numbers from 0 to 2147483647"):
        volumes.read_labels(path, path)
