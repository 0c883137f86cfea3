"""Pictures in many forms, each as the bytes of a file, made of RGB or gray pixels of 6 × 5 px."""

import io
import os
import socket
import struct
import zlib

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 5, 3), dtype=np.uint8)
GRAY = np.ascontiguousarray(RGB[..., 0])
RGB16 = RNG.integers(0, 65536, (6, 5, 3), dtype=np.uint16)
GRAY16 = np.ascontiguousarray(RGB16[..., 0])
SMOOTH = np.dstack([np.tile(np.linspace(20, 230, 64).astype(np.uint8), (48, 1))] * 3)  # that JPEG hardly changes
TURNED = {  # the upright pixels of RGB, stored so, by the value of the tag
    1: RGB, 2: RGB[:, ::-1], 3: RGB[::-1, ::-1], 4: RGB[::-1],
    5: RGB.swapaxes(0, 1), 6: np.rot90(RGB), 7: np.rot90(RGB, 2).swapaxes(0, 1), 8: np.rot90(RGB, -1),
}  # fmt: skip
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def pillow(pixels, form, mode=None, **options) -> bytes:
    image = (
        pixels
        if isinstance(pixels, Image.Image)
        else Image.fromarray(pixels, mode)
        if mode
        else Image.fromarray(pixels)
    )
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def tiff(pixels, **options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[274] = orientation
    return found


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height, bits, colour, rows: bytes, before=b"", after=b"", interlaced=0) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced)
    return SIGNATURE + chunk(b"IHDR", head) + before + chunk(b"IDAT", zlib.compress(rows)) + after + chunk(b"IEND", b"")


def rows_of(pixels: np.ndarray) -> bytes:
    """Return unfiltered rows of a PNG."""
    return b"".join(b"\0" + row.tobytes() for row in pixels.astype(pixels.dtype.newbyteorder(">")))


def interlaced(pixels: np.ndarray) -> bytes:
    """Return a PNG in the seven passes of Adam7."""
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    parts = [pixels[top::down, left::right] for top, left, down, right in passes]
    rows = b"".join(rows_of(part) for part in parts if part.size)
    return png(pixels.shape[1], pixels.shape[0], 8 * pixels.itemsize, 2, rows, interlaced=1)


def png_with_late_exif(orientation: int) -> bytes:
    content = exif(orientation).tobytes().removeprefix(b"Exif\0\0")
    return png(5, 6, 8, 2, rows_of(RGB), after=chunk(b"eXIf", content))


def with_alpha(pixels: np.ndarray, alpha) -> np.ndarray:
    return np.dstack([pixels, np.full(pixels.shape[:2], alpha, pixels.dtype)])


def half(pixels: np.ndarray) -> np.ndarray:
    """Return an alpha channel whose left half is transparent."""
    alpha = np.full(pixels.shape[:2], np.iinfo(pixels.dtype).max, pixels.dtype)
    alpha[:, :2] = 0
    return np.dstack([pixels, alpha])


def palette(transparent=None) -> bytes:
    image = Image.fromarray((GRAY % 4).astype(np.uint8), "P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 9, 9, 9])
    return pillow(image, "PNG", **({} if transparent is None else {"transparency": transparent}))


def several(form: str) -> bytes:
    images = [Image.new("RGB", (5, 6), (k, k, k)) for k in (10, 20, 30)]
    return pillow(images[0], form, save_all=True, append_images=images[1:])


def pyramid() -> bytes:
    """Return a TIFF with a thumbnail."""
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(RGB, photometric="rgb", metadata=None)
        writer.write(RGB[::2, ::2], photometric="rgb", subfiletype=1, metadata=None)
    return buffer.getvalue()


def bmp16() -> bytes:
    """Return a BMP of 5-6-5 bits, given by masks."""
    rows = b"".join(struct.pack("<5H", *([0xF800] * 5)) + b"\0\0" for _ in range(6))
    masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    head = struct.pack("<IiiHHIIiiII", 40, 5, 6, 1, 16, 3, len(rows), 0, 0, 0, 0) + masks
    return b"BM" + struct.pack("<IHHI", 14 + len(head) + len(rows), 0, 0, 14 + len(head)) + head + rows


def bmp32(pixels: np.ndarray) -> bytes:
    """Return a BMP with alpha, given by the masks of a version 4 header."""
    rows = np.ascontiguousarray(pixels[::-1, :, [2, 1, 0, 3]]).tobytes()
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    head = struct.pack("<IiiHHIIiiII", 108, 5, 6, 1, 32, 3, len(rows), 0, 0, 0, 0) + masks + bytes(52)
    return b"BM" + struct.pack("<IHHI", 14 + len(head) + len(rows), 0, 0, 14 + len(head)) + head + rows


def looped_tiff() -> bytes:
    """Return a TIFF whose first directory names itself as the next."""
    content = bytearray(tiff(GRAY))
    start = struct.unpack_from("<I", content, 4)[0]
    count = struct.unpack_from("<H", content, start)[0]
    struct.pack_into("<I", content, start + 2 + 12 * count, start)
    return bytes(content)


def huge_png(bits: int) -> bytes:
    return png(60000, 60000, bits, 0, b"\0")


def huge_tiff(bits: int) -> bytes:
    content = bytearray(tiff(GRAY16 if bits == 16 else GRAY))
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        for name in ("ImageWidth", "ImageLength"):
            tag = file.pages[0].tags[name]
            struct.pack_into("<HHII", content, tag.offset, tag.code, 4, 1, 60000)
    return bytes(content)


def cut(content: bytes, share: float = 0.6) -> bytes:
    return content[: int(len(content) * share)]


def noise(form: str, **options) -> bytes:
    return pillow(RNG.integers(0, 255, (64, 64, 3), dtype=np.uint8), form, **options)


def deep_noise() -> np.ndarray:
    return RNG.integers(0, 65535, (64, 64, 3), dtype=np.uint16)


GOOD = {  # name: (content, expected pixels [H, W, C] of the image, or None where a lossy code leaves them near SMOOTH)
    "gray.png": (pillow(GRAY, "PNG"), GRAY[..., None]),
    "rgb.png": (pillow(RGB, "PNG"), RGB),
    "interlaced.png": (interlaced(RGB), RGB),
    "interlaced of 16 bits.png": (interlaced(RGB16), RGB16),
    "1-bit.png": (pillow(Image.fromarray(GRAY > 127), "PNG"), (GRAY > 127)[..., None] * np.uint8(255)),
    "2-bit.png": (
        png(4, 1, 2, 0, b"\0" + bytes([0b00011011])),
        np.array([[[0], [85], [170], [255]]], np.uint8),
    ),
    "palette.png": (palette(), np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [9, 9, 9]], np.uint8)[GRAY % 4]),
    "opaque palette.png": (
        palette(bytes([255] * 4)),
        np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [9, 9, 9]], np.uint8)[GRAY % 4],
    ),
    "opaque.png": (pillow(with_alpha(RGB, 255), "PNG"), RGB),
    "opaque gray.png": (pillow(with_alpha(GRAY, 255), "PNG"), GRAY[..., None]),
    "gray of 16 bits.png": (pillow(GRAY16, "PNG"), GRAY16[..., None]),
    "rgb of 16 bits.png": (imagecodecs.png_encode(RGB16), RGB16),
    "opaque of 16 bits.png": (imagecodecs.png_encode(with_alpha(RGB16, 65535)), RGB16),
    "dark of 16 bits.png": (imagecodecs.png_encode(RGB16 % 200), RGB16 % 200),
    "text.png": (
        png(5, 6, 8, 2, rows_of(RGB), before=chunk(b"tEXt", b"Comment\0hello")),
        RGB,
    ),
    **{f"turned {k}.png": (pillow(TURNED[k].copy(), "PNG", exif=exif(k)), RGB) for k in TURNED},
    **{f"turned {k}.tif": (tiff(TURNED[k].copy(), photometric="rgb", extratags=[(274, 3, 1, k, True)]), RGB) for k in TURNED},
    **{
        f"turned {k} of 16 bits.tif": (
            tiff(TURNED[k].astype(np.uint16), photometric="rgb", extratags=[(274, 3, 1, k, True)]),
            RGB.astype(np.uint16),
        )
        for k in (3, 6)
    },
    "turned late.png": (png_with_late_exif(3), RGB[::-1, ::-1]),
    "turned of 16 bits.png": (
        png(5, 6, 16, 2, rows_of(RGB16), before=chunk(b"eXIf", exif(3).tobytes().removeprefix(b"Exif\0\0"))),
        RGB16[::-1, ::-1],
    ),
    "garbled exif.png": (png(5, 6, 8, 2, rows_of(RGB), before=chunk(b"eXIf", b"II*\0\xff\xff\xff\xff")), RGB),
    "no such turn.png": (pillow(RGB, "PNG", exif=exif(9)), RGB),
    "smooth.jpg": (pillow(SMOOTH, "JPEG", quality=95), None),
    "gray.jpg": (pillow(SMOOTH[..., 0].copy(), "JPEG", quality=95), None),
    "progressive.jpg": (pillow(SMOOTH, "JPEG", quality=95, progressive=True), None),
    "turned 6.jpg": (pillow(np.rot90(SMOOTH).copy(), "JPEG", quality=95, exif=exif(6)), None),
    "turned 3 gray.jpg": (pillow(SMOOTH[::-1, ::-1, 0].copy(), "JPEG", quality=95, exif=exif(3)), None),
    "phone.jpg": (
        pillow(Image.fromarray(SMOOTH), "MPO", save_all=True, append_images=[Image.new("RGB", (64, 48))], quality=95),
        None,
    ),
    "colour profile.jpg": (pillow(SMOOTH, "JPEG", quality=95, icc_profile=b"no profile" * 20), None),
    "gray.tif": (tiff(GRAY), GRAY[..., None]),
    "rgb.tif": (tiff(RGB, photometric="rgb"), RGB),
    "planar.tif": (tiff(RGB.transpose(2, 0, 1).copy(), photometric="rgb", planarconfig="separate"), RGB),
    "lzw.tif": (tiff(RGB, photometric="rgb", compression="lzw"), RGB),
    "packed.tif": (tiff(RGB, photometric="rgb", compression="zlib", predictor=True), RGB),
    "big endian.tif": (tiff(RGB, photometric="rgb", byteorder=">"), RGB),
    "big.tif": (tiff(RGB, photometric="rgb", bigtiff=True), RGB),
    "tiled.tif": (tiff(np.tile(RGB, (8, 8, 1)), photometric="rgb", tile=(16, 16)), np.tile(RGB, (8, 8, 1))),
    "jpeg inside.tif": (tiff(SMOOTH, photometric="rgb", compression="jpeg", tile=(16, 16), compressionargs={"level": 95}), None),
    "1-bit.tif": (tiff(GRAY > 127, photometric="minisblack"), (GRAY > 127)[..., None] * np.uint8(255)),
    "fax.tif": (pillow(Image.fromarray(GRAY > 127), "TIFF", compression="group4"), (GRAY > 127)[..., None] * np.uint8(255)),
    "white is zero.tif": (tiff(GRAY, photometric="miniswhite"), 255 - GRAY[..., None]),
    "white is zero of 16 bits.tif": (tiff(GRAY16, photometric="miniswhite"), 65535 - GRAY16[..., None]),
    "gray of 16 bits.tif": (tiff(GRAY16), GRAY16[..., None]),
    "signed.tif": (tiff((GRAY16 // 2).astype(np.int16)), GRAY16[..., None] // 2),
    "rgb of 16 bits.tif": (tiff(RGB16, photometric="rgb"), RGB16),
    "dark of 16 bits.tif": (tiff(RGB16 % 200, photometric="rgb", compression="lzw"), RGB16 % 200),
    "planar of 16 bits.tif": (tiff(RGB16.transpose(2, 0, 1).copy(), photometric="rgb", planarconfig="separate"), RGB16),
    "opaque.tif": (tiff(with_alpha(RGB, 255), photometric="rgb", extrasamples=["unassalpha"]), RGB),
    "opaque of 16 bits.tif": (tiff(with_alpha(RGB16, 65535), photometric="rgb", extrasamples=["unassalpha"]), RGB16),
    "thumbnail.tif": (pyramid(), RGB),
    "loop.tif": (looped_tiff(), GRAY[..., None]),
    "rgb.bmp": (pillow(RGB, "BMP"), RGB),
    "gray.bmp": (pillow(GRAY, "BMP"), GRAY[..., None]),
    "1-bit.bmp": (pillow(Image.fromarray(GRAY > 127), "BMP"), (GRAY > 127)[..., None] * np.uint8(255)),
    "16 bits.bmp": (bmp16(), np.tile(np.array([255, 0, 0], np.uint8), (6, 5, 1))),
    "32 bits.bmp": (pillow(half(RGB), "BMP"), RGB),  # the fourth byte means nothing in this form
    "opaque.bmp": (bmp32(with_alpha(RGB, 255)), RGB),
    "other name.jpg": (pillow(RGB, "PNG"), RGB),
}  # fmt: skip

ALPHA = "has an alpha channel that is not opaque everywhere"
DAMAGED = "is truncated or damaged"
BAD = {  # name: (content, what is said)
    "empty.png": (b"", "is empty"),
    "text.jpg": (b"hello " * 50, "is not an image in PNG, JPEG, TIFF, BMP"),
    "gif.png": (pillow(GRAY, "GIF"), "is not an image in PNG"),
    "eps.png": (pillow(RGB, "EPS"), "is not an image in PNG"),
    "webp.jpg": (pillow(RGB, "WEBP"), "is not an image in PNG"),
    "photoshop.tif": (b"8BPS\0\1" + bytes(200), "is not an image in PNG"),
    "dicom.png": (bytes(128) + b"DICM" + bytes(200), "is not an image in PNG"),
    "web page.png": (b"<!DOCTYPE html><html><body>404</body></html>", "is not an image in PNG"),
    "archive.tif": (b"PK\3\4" + bytes(100), "is not an image in PNG"),
    "animated.png": (several("PNG"), "holds 3 frames"),
    "pages.tif": (several("TIFF"), "holds 3 pages"),
    "pages of 16 bits.tif": (tiff(np.stack([GRAY16] * 4), photometric="minisblack"), "holds 4 pages"),
    "deep in one page.tif": (
        tiff(np.zeros((16, 16, 16), np.uint8), volumetric=True, tile=(16, 16, 16)),
        "holds 16 pages",
    ),
    "half.png": (pillow(half(RGB), "PNG"), ALPHA),
    "half gray.png": (pillow(half(GRAY), "PNG"), ALPHA),
    "half of 16 bits.png": (imagecodecs.png_encode(half(RGB16)), ALPHA),
    "half gray of 16 bits.png": (imagecodecs.png_encode(half(GRAY16)), ALPHA),
    "half.tif": (tiff(half(RGB), photometric="rgb", extrasamples=["unassalpha"]), ALPHA),
    "half of 16 bits.tif": (tiff(half(RGB16), photometric="rgb", extrasamples=["assocalpha"]), ALPHA),
    "half.bmp": (bmp32(half(RGB)), ALPHA),
    "fourth channel.tif": (tiff(half(RGB), photometric="rgb", extrasamples=["unspecified"]), ALPHA),
    "transparent entry.png": (palette(0), ALPHA),
    "transparent colour.png": (
        png(5, 6, 8, 2, rows_of(RGB), before=chunk(b"tRNS", struct.pack(">3H", *RGB[0, 0].tolist()))),
        ALPHA,
    ),
    "transparent gray of 16 bits.png": (
        png(5, 6, 16, 0, rows_of(GRAY16), before=chunk(b"tRNS", struct.pack(">H", int(GRAY16[0, 0])))),
        ALPHA,
    ),
    "cmyk.jpg": (pillow(Image.new("CMYK", (8, 8)), "JPEG"), "has its colours as CMYK"),
    "cmyk.tif": (pillow(Image.new("CMYK", (8, 8)), "TIFF"), "has its colours as SEPARATED"),
    "lab.tif": (pillow(Image.new("LAB", (8, 8)), "TIFF"), "has its colours as CIELAB"),
    "float.tif": (tiff(RGB.astype(np.float32), photometric="rgb"), "more than 16 bits or with fractions .float32"),
    "half float.tif": (tiff(GRAY.astype(np.float16)), "more than 16 bits or with fractions .float16"),
    "32 bits.tif": (tiff(GRAY.astype(np.uint32) * 2**20), "more than 16 bits"),
    "negative.tif": (tiff(GRAY.astype(np.int16) - 1000), "has pixels below 0"),
    "spectra.tif": (tiff(np.dstack([GRAY] * 7), photometric="minisblack", planarconfig="contig"), "has 7 channels"),
    "cut.png": (cut(noise("PNG")), DAMAGED),
    "cut of 16 bits.png": (cut(imagecodecs.png_encode(deep_noise())), DAMAGED),
    "cut.jpg": (cut(noise("JPEG")), DAMAGED),
    "cut.bmp": (cut(noise("BMP")), DAMAGED),
    "cut.tif": (cut(noise("TIFF")), DAMAGED),
    "cut lzw.tif": (cut(tiff(RNG.integers(0, 255, (64, 64, 3), dtype=np.uint8), photometric="rgb", compression="lzw")), DAMAGED),
    "cut of 16 bits.tif": (cut(tiff(deep_noise(), photometric="rgb")), DAMAGED),
    "cut packed of 16 bits.tif": (cut(tiff(deep_noise(), photometric="rgb", compression="zlib")), DAMAGED),
    "cut head.png": (pillow(RGB, "PNG")[:20], "is truncated or damaged|is not an image"),
    "cut head.jpg": (pillow(RGB, "JPEG")[:20], "is truncated or damaged|is not an image"),
    "cut head.tif": (tiff(RGB, photometric="rgb")[:12], "is truncated or damaged|is not an image"),
    "cut head.bmp": (pillow(RGB, "BMP")[:20], "is truncated or damaged|is not an image"),
    "flipped.png": (pillow(RGB, "PNG").replace(b"IDAT", b"IDAT\xff", 1), DAMAGED),
    "huge.png": (huge_png(8), r"has more than [\d,]+ pixels"),
    "huge of 16 bits.png": (huge_png(16), r"has more than [\d,]+ pixels"),
    "huge.tif": (huge_tiff(8), r"has more than [\d,]+ pixels"),
    "huge of 16 bits.tif": (huge_tiff(16), r"has more than [\d,]+ pixels"),
    "text bomb.png": (
        png(5, 6, 8, 2, rows_of(RGB), before=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**8)))),
        DAMAGED,
    ),
}  # fmt: skip


def make_folder(path) -> None:
    path.mkdir()


def make_pipe(path) -> None:
    os.mkfifo(path)


def make_socket(path) -> None:
    """Make a socket by its relative path, since a socket's path must be short."""
    here = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def make_device(path) -> None:
    path.symlink_to("/dev/zero")


def make_loop(path) -> None:
    path.symlink_to(path)


def make_dangling(path) -> None:
    path.symlink_to(path.with_name("nowhere"))


IRREGULAR = {
    make_folder: "is a folder", make_pipe: "is a pipe", make_socket: "is a socket", make_device: "is a device",
    make_loop: "cannot be read", make_dangling: "cannot be read",
}  # fmt: skip
