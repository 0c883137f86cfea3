"""Pictures of every format: each is decoded as the format says, or refused in one sentence that names it, without warnings."""

import io
import re
import struct
from unittest import mock

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from picture_files import (
    ALPHA,
    BAD,
    GOOD,
    GRAY,
    GRAY16,
    IRREGULAR,
    RGB,
    RGB16,
    SMOOTH,
    TURNED,
    exif,
    half,
    palette,
    pillow,
    tiff,
    with_alpha,
)  # fmt: skip
from PIL import Image
from volume_files import sentence

from diffseg.data import pictures
from diffseg.data.records import Record, in_parallel
from diffseg.errors import DataError

MASK = np.zeros((6, 5), np.uint8)
MASK[2:5, 1:4] = 255
MASKED = np.dstack([MASK, MASK, MASK])


@pytest.fixture
def silent(recwarn, capfd):
    yield
    assert not list(recwarn)
    said = capfd.readouterr()  # libtiff itself writes about damage
    assert (said.out, [line for line in said.err.splitlines() if not line.startswith("TIFF")]) == ("", [])


def read(path, look):
    """Read a file as a data set does, with Pillow's warnings silenced."""
    return in_parallel(look, [Record("a", "train", path, ())])[0]


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("name", GOOD)
def test_a_picture_is_decoded_as_its_format_says(name, tmp_path):
    content, expected = GOOD[name]
    path = tmp_path / name
    path.write_bytes(content)
    found, gray, shape = read(path, lambda record: (record.read_image(3), record.read_image(1), record.read_shape()))
    assert (shape.height, shape.width, shape.channels, shape.deep) == (*found.shape, found.dtype == np.uint16)
    if expected is None:
        assert np.abs(found.astype(int) - SMOOTH[..., : found.shape[2]]).mean() < 3
    else:
        assert found.dtype == expected.dtype
        assert np.array_equal(found, expected)
    assert gray.shape == (*found.shape[:2], 1)
    assert (
        np.abs(
            gray[..., 0] - found @ np.array([0.299, 0.587, 0.114])[: found.shape[2]] if found.shape[2] == 3 else 0
        ).max()
        <= 1
    )


def one_sentence(error, path, words):
    assert re.search(words, str(error.value)), str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("name", BAD)
def test_other_pictures_are_refused(name, tmp_path):
    content, words = BAD[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        read(path, lambda record: (record.read_shape(), record.read_image(3)))
    one_sentence(error, path, words)
    if words is not ALPHA:
        with pytest.raises(DataError) as error:
            read(path, lambda record: record.read_labels(path))
        one_sentence(error, path, words)


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("make", IRREGULAR, ids=lambda make: make.__name__)
def test_only_regular_files_are_opened(make, tmp_path):
    path = tmp_path / "a.png"
    make(path)
    for look in (pictures.read_shape, pictures.read_labels):
        with pytest.raises(DataError) as error:
            look(path)
        one_sentence(error, path, IRREGULAR[make])


def entries(pixels: np.ndarray) -> Image.Image:
    image = Image.fromarray(pixels, "P")
    image.putpalette([0, 0, 0, 255, 255, 255])
    return image


MASKS = {  # content, and the labels that it holds
    "gray": (pillow(MASK, "PNG"), MASK),
    "gray in colours": (pillow(MASKED, "PNG"), MASK),
    "1 bit": (pillow(Image.fromarray(MASK > 0), "PNG"), MASK),
    "numbers": (pillow((GRAY % 4).astype(np.uint8), "PNG"), GRAY % 4),
    "deep numbers": (pillow((GRAY % 4).astype(np.uint16) * 1000, "PNG"), GRAY % 4 * np.uint16(1000)),
    "entries": (palette(), GRAY % 4),
    "transparent entries": (palette(0), GRAY % 4),
    "colours": (pillow(RGB, "PNG"), RGB),
    "opaque": (pillow(with_alpha(MASKED, 255), "PNG"), MASK),
    "opaque gray": (pillow(with_alpha(MASK, 255), "PNG"), MASK),
    "alpha alone": (pillow(np.dstack([np.full((6, 5, 3), 200, np.uint8), MASK]), "PNG"), MASK),
    "alpha alone, gray": (pillow(np.dstack([np.full((6, 5), 255, np.uint8), MASK]), "PNG"), MASK),
    "alpha alone, deep": (
        imagecodecs.png_encode(np.dstack([np.full((6, 5, 3), 9, np.uint16), MASK.astype(np.uint16) * 257])),
        MASK.astype(np.uint16) * 257,
    ),
    "alpha alone, TIFF": (
        tiff(np.dstack([np.full((6, 5, 3), 9, np.uint8), MASK]), photometric="rgb", extrasamples=["unassalpha"]),
        MASK,
    ),
    "alpha of nothing": (pillow(np.dstack([MASKED, MASK]), "PNG"), MASK),
    "all empty, all transparent": (pillow(np.zeros((6, 5, 4), np.uint8), "PNG"), np.zeros((6, 5), np.uint8)),
    "turned": (pillow(np.rot90(MASK).copy(), "PNG", exif=exif(6)), MASK),
    "turned entries": (pillow(entries(MASK[::-1, ::-1] // 255), "PNG", exif=exif(3)), MASK // 255),
    "turned TIFF": (tiff(MASK[::-1].copy(), extratags=[(274, 3, 1, 4, True)]), MASK),
    "turned deep TIFF": (tiff(MASK[::-1].astype(np.uint16), extratags=[(274, 3, 1, 4, True)]), MASK),
    "12 bits": (None, GRAY % 4),
    "fax": (pillow(Image.fromarray(MASK > 0), "TIFF", compression="group4"), MASK),
}


def twelve_bits(pixels: np.ndarray) -> bytes:
    """Write a TIFF of two pixels in three bytes, with rows padded to whole bytes."""
    rows = b""
    for row in pixels.tolist():
        bits = "".join(f"{value:012b}" for value in row)
        bits += "0" * (-len(bits) % 8)
        rows += bytes(int(bits[k : k + 8], 2) for k in range(0, len(bits), 8))
    content = bytearray(tiff(pixels.astype(np.uint16), rowsperstrip=len(pixels), metadata=None))
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        tags, start = file.pages[0].tags, file.pages[0].dataoffsets[0]
    struct.pack_into("<HHIHH", content, tags["BitsPerSample"].offset, 258, 3, 1, 12, 0)
    struct.pack_into("<HHII", content, tags["StripByteCounts"].offset, 279, 4, 1, len(rows))
    content[start : start + len(rows)] = rows
    return bytes(content)


MASKS["12 bits"] = twelve_bits(GRAY % 4), GRAY % 4


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("name", MASKS)
def test_a_mask_is_read_as_it_is_stored(name, tmp_path):
    content, expected = MASKS[name]
    (tmp_path / "mask").write_bytes(content)
    found = pictures.read_labels(tmp_path / "mask", (6, 5))
    assert np.array_equal(found.pixels, expected)
    assert (found.palette is not None) == ("entries" in name)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (pillow(half(RGB), "PNG"), "has an alpha channel besides its colours"),
        (pillow(half(GRAY), "PNG"), "has an alpha channel besides its colours"),
        (imagecodecs.png_encode(half(RGB16)), "has an alpha channel besides its colours"),
        (imagecodecs.png_encode(RGB16), "is a mask in colours of 16 bits"),
        (
            pillow(TURNED[6].copy(), "PNG"),
            "is 6 × 5 px, but its image is 5 × 6: mask and image must have one size, and only one",
        ),
    ],
)
def test_an_ambiguous_mask_is_refused(content, words, tmp_path):
    (tmp_path / "mask").write_bytes(content)
    with pytest.raises(DataError) as error:
        pictures.read_labels(tmp_path / "mask", (6, 5))
    one_sentence(error, tmp_path / "mask", words)


def test_twelve_bits_of_an_image_are_stretched_to_sixteen(tmp_path):
    pixels = np.array([[0, 1, 2048, 4095]])
    (tmp_path / "a.tif").write_bytes(twelve_bits(pixels))
    assert pictures.read_image(tmp_path / "a.tif", 1)[..., 0].tolist() == [[0, 16, 32776, 65535]]


def test_a_photograph_that_is_decoded_smaller_is_still_turned(tmp_path):
    large = np.kron(SMOOTH, np.ones((16, 16, 1), np.uint8))
    (tmp_path / "a.jpg").write_bytes(pillow(np.rot90(large).copy(), "JPEG", quality=95, exif=exif(6)))
    found = pictures.read_image(tmp_path / "a.jpg", 3, at_least=96)
    assert found.shape == (96, 128, 3)
    assert np.abs(found.astype(int) - np.kron(SMOOTH, np.ones((2, 2, 1)))).mean() < 3


def test_there_are_at_least_sixty_cases():
    assert len(GOOD) + len(BAD) + len(MASKS) + len(IRREGULAR) > 120


@settings(max_examples=100)
@given(name=st.sampled_from(sorted(GOOD)), data=st.data())
def test_any_damage_is_refused_in_one_sentence(name, data, tmp_path_factory):
    """Overwrite, remove or insert bytes anywhere."""
    content = bytearray(GOOD[name][0])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            content[place] = data.draw(st.integers(0, 255))
        else:
            content[place : place + data.draw(st.integers(0, 40))] = data.draw(st.binary(max_size=8))
        content = content or bytearray(b"\0")
    path = tmp_path_factory.mktemp("damaged", numbered=True) / name
    path.write_bytes(content)
    record = Record("a", "train", path, ())
    with mock.patch.object(Image, "MAX_IMAGE_PIXELS", 50_000):
        for look in (lambda record: record.read_image(3), lambda record: record.read_labels(path)):
            said = sentence(lambda look=look: in_parallel(look, [record]), path)
            assert str(path) in said
            assert "\n" not in said


@pytest.mark.parametrize("pixels", [GRAY > 127, GRAY, GRAY16, (GRAY16 // 2).astype(np.int16)])
def test_a_mask_whose_zero_is_white_is_refused(pixels, tmp_path):
    """tifffile writes booleans so, and means the numbers; fax programs mean the shades."""
    tifffile.imwrite(tmp_path / "mask.tif", pixels, photometric=None if pixels.dtype == bool else "miniswhite")
    with pytest.raises(DataError, match=r"mask\.tif is a mask in a TIFF whose 0 is white \(MinIsWhite\)"):
        pictures.read_labels(tmp_path / "mask.tif")
