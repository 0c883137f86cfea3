"""Synthetic images and masks of four kinds, the first three each a caricature of a data set of the study.

- large: one large object near the centre, like ISIC16's lesions;
- many: many small objects, like MoNuSeg's nuclei;
- clusters: patches of any size, absent in a tenth of the images, like HER2's tumours;
- classes: nuclei of two kinds, smooth ones of the value 1 and grainy, bluish ones of the value 2.

Colour alone does not separate the objects: texture, distractors of similar colour, uneven light, blur and noise make the
task learnable, not trivial.
"""

from pathlib import Path

import numpy as np

from diffseg.config import Data
from diffseg.data.arrays import DecodedData, DecodedSplit
from diffseg.data.masks import MaskPixels, join_values
from diffseg.data.numbering import number_pixels
from diffseg.data.quantisation import mean_and_deviation
from diffseg.data.records import count_parts
from diffseg.errors import DataError
from diffseg.labels.classes import Classes

KINDS = ("large", "many", "clusters", "classes")
VALUES = {"classes": (1, 2)}  # of the masks of a kind, besides 0; of others 1
IMAGES = {"train": 200, "test": 40}  # of a split whose number the configuration leaves open
ABSENT = 0.1  # share of images without an object, for clusters
OVERSAMPLING = 2  # images are drawn at this many times their side, then averaged

SOURCE = Path("synthetic masks")  # their name in messages

Random = np.random.Generator


def draw_images(config: Data) -> DecodedData:
    """Draw the training and test images and masks of a configuration.

    Raises DataError if the classes of the configuration are not those that are drawn.
    """
    classes = Classes.of(config)
    _check_classes(config, classes)
    parts, histogram = {}, np.zeros((3, 256), np.int64)
    for split, limit in (("train", config.train_images), ("test", config.test_images)):
        count = limit or IMAGES[split]
        drawn = [draw_image(config.kind, config.size, split, index) for index in range(count)]
        images = np.stack([image for image, _ in drawn]).transpose(0, 3, 1, 2)
        masks = np.stack([number_pixels(SOURCE, MaskPixels(mask), classes, "nonzero") for _, mask in drawn])
        if split == "train":
            histogram[:] = [np.bincount(images[:, channel].ravel(), minlength=256) for channel in range(3)]
        parts[split] = DecodedSplit(
            names=tuple(f"{split}-{index:04d}" for index in range(count)),
            groups=(None,) * count,
            spacings=(None,) * count,
            images=images.reshape(-1),
            masks=masks.reshape(-1),
            sizes=np.full((count, 2), config.size, np.int64),
            originals=np.full((count, 2), config.size, np.int64),
            statistics=np.stack([mean_and_deviation(image.transpose(1, 2, 0)) for image in images]),
            objects=np.array([count_parts(mask[None], classes) for mask in masks], np.int64),
        )
    return DecodedData(parts, 3, 1, histogram)


def _check_classes(config: Data, classes: Classes) -> None:
    """Raise DataError if a class lists none of the values that are drawn."""
    drawn = VALUES.get(config.kind, (1,))
    for name, values in config.classes:
        if name in classes.names and not set(values) & set(drawn):
            raise DataError(
                f"data.kind={config.kind} draws masks of the value{'s' * (len(drawn) > 1)} {join_values(drawn)}, none of which "
                f"class {name} of data.classes lists: set data.kind=classes, which draws 1 and 2, or correct data.classes"
            )


def draw_image(kind: str, size: int, split: str, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw (image uint8 [S, S, 3], mask uint8 [S, S]), a function of the arguments alone."""
    key = [KINDS.index(kind), ("train", "test").index(split)]
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([*key, index])))
    canvas = OVERSAMPLING * size
    draw = {"large": _draw_lesion, "many": _draw_nuclei, "clusters": _draw_tumours, "classes": _draw_two_kinds}[kind]
    image, drawn = draw(rng, canvas)
    image *= 1 + 0.12 * _field(rng, canvas, 0.4)[..., None]  # uneven light
    image = _average(image) + rng.normal(0, 7, (size, size, 3))
    mask = np.zeros((size, size), np.uint8)
    for value in VALUES.get(kind, (1,)):
        mask[_average((drawn == value)[..., None].astype(float))[..., 0] > 0.5] = value
    return image.round().clip(0, 255).astype(np.uint8), mask


def _draw_lesion(rng: Random, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a lesion on skin, with hairs, small moles and a soft edge: colours [n, n, 3] and mask bool [n, n]."""
    skin = rng.normal((205, 165, 145), 12)
    image = skin + 9 * _field(rng, n, 0.03)[..., None]
    brown = skin * rng.uniform(0.5, 0.88) + rng.normal(0, 5, 3)
    lesion = _blob(rng, n, rng.normal(0.5, 0.07, 2), rng.uniform(0.13, 0.34), rough=0.14)
    spots = _field(rng, n, 0.05)[..., None] * 14
    image = _blend(image, brown + spots, lesion, softness=rng.uniform(0.01, 0.05))
    for _ in range(rng.integers(0, 4)):  # moles, which are not the lesion
        mole = _blob(rng, n, rng.uniform(0.05, 0.95, 2), rng.uniform(0.02, 0.06), rough=0.1)
        image = _blend(image, brown, np.where(lesion > -0.05, -1, mole), softness=0.01)
    for _ in range(rng.integers(0, 7)):
        image = _blend(image, skin * 0.35, _hair(rng, n), softness=0.004)
    return image, lesion > 0


def _draw_nuclei(rng: Random, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw nuclei in tissue, among red cells of similar size and pale cells of similar shape, as `_draw_lesion` does."""
    tissue = rng.normal((222, 178, 205), 8)
    image = tissue + 12 * _field(rng, n, 0.06)[..., None] * (1, 1.4, 0.8)
    for colour, count in (((205, 95, 125), int(rng.integers(2, 9))), (tissue * 0.93, int(rng.integers(3, 9)))):
        others = _cells(rng, n, count, (0.03, 0.055))
        image = _blend(image, np.asarray(colour), others, softness=0.012)
    nuclei = _cells(rng, n, int(rng.integers(14, 40)), (0.028, 0.06))
    purple = rng.normal((125, 85, 160), 10) + 16 * _field(rng, n, 0.02)[..., None]
    return _blend(image, purple, nuclei, softness=0.012), nuclei > 0


def _draw_two_kinds(rng: Random, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw smooth purple nuclei (1) and grainy bluish ones (2) among red cells; mask uint8 [n, n].

    The latter lie above the former. Their mean colours differ by less than the spread within each kind.
    """
    tissue = rng.normal((222, 178, 205), 8)
    image = tissue + 12 * _field(rng, n, 0.06)[..., None] * (1, 1.4, 0.8)
    image = _blend(
        image, np.array((205, 95, 125)), _cells(rng, n, int(rng.integers(2, 7)), (0.04, 0.07)), softness=0.012
    )
    mask = np.zeros((n, n), np.uint8)
    colour, grains = rng.normal((125, 85, 160), 8), _field(rng, n, 0.014)[..., None]
    for value, own in ((1, colour + 6 * grains), (2, colour + (-18, 12, 4) + 34 * grains)):
        nuclei = _cells(rng, n, int(rng.integers(5, 12)), (0.05, 0.1))
        image = _blend(image, own, nuclei, softness=0.012)
        mask[nuclei > 0] = value
    return image, mask


def _draw_tumours(rng: Random, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw coarse-grained tumour patches in fibrous tissue with patches of small dark lymphocytes, as `_draw_lesion` does."""
    stroma = rng.normal((225, 175, 200), 8)
    fibres = _field(rng, n, (0.02, 0.12))
    image = stroma + 14 * fibres[..., None]
    grains = _field(rng, n, 0.012)
    lymphocytes = _patches(rng, n, int(rng.integers(0, 3)), (0.06, 0.2))
    image = _blend(image, stroma * 0.78 - 34 * (grains > 0.3)[..., None] * (1, 1, 0.4), lymphocytes, softness=0.02)
    if rng.uniform() < ABSENT:
        return image, np.zeros((n, n), bool)
    tumour = _patches(rng, n, int(rng.integers(1, 4)), (0.06, 0.34))
    colour = stroma * rng.normal((0.76, 0.68, 0.86), 0.03) + 20 * _field(rng, n, 0.035)[..., None]
    return _blend(image, colour, tumour, softness=0.02), tumour > 0


def _field(rng: Random, n: int, scale: float | tuple[float, float]) -> np.ndarray:
    """Draw smooth Gaussian noise [n, n] of unit variance. scale: its grain (down, across) as a share of the side."""
    frequencies = np.fft.fftfreq(n) * n
    sy, sx = np.broadcast_to(scale, 2)
    weight = np.exp(-2 * np.pi**2 * ((frequencies[:, None] * sy) ** 2 + (frequencies * sx) ** 2))
    field: np.ndarray = np.fft.ifft2(np.fft.fft2(rng.normal(size=(n, n))) * weight).real
    field = (field - field.mean()) / (field.std() + 1e-9)
    return field


def _grid(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return y [n, 1] and x [1, n] of the pixels' centres, as shares of the side."""
    side = (np.arange(n) + 0.5) / n
    return side[:, None], side[None, :]


def _blob(rng: Random, n: int, centre: np.ndarray, radius: float, rough: float) -> np.ndarray:
    """Draw an irregular ellipse as a level [n, n] like a signed distance, positive inside; lengths are shares of the side."""
    y, x = (axis - c for axis, c in zip(_grid(n), centre, strict=True))
    turn, stretch = rng.uniform(0, np.pi), rng.uniform(0.65, 1)
    u, v = x * np.cos(turn) + y * np.sin(turn), (y * np.cos(turn) - x * np.sin(turn)) / stretch
    angle, waves = np.arctan2(v, u), np.arange(2, 7)
    ripples = rng.normal(0, rough / waves, 5)[:, None, None] * np.cos(
        waves[:, None, None] * angle + rng.uniform(0, 2 * np.pi, (5, 1, 1))
    )
    level: np.ndarray = radius * (1 + ripples.sum(0)) - np.hypot(u, v)
    return level


def _cells(rng: Random, n: int, count: int, radii: tuple[float, float]) -> np.ndarray:
    """Draw small ellipses as a level [n, n], positive inside any of them."""
    y, x = _grid(n)
    cy, cx, turn = rng.uniform(0, 1, (3, count, 1, 1))
    radius, stretch = rng.uniform(*radii, (count, 1, 1)), rng.uniform(0.6, 1, (count, 1, 1))
    dy, dx, cos, sin = y - cy, x - cx, np.cos(np.pi * turn), np.sin(np.pi * turn)
    level: np.ndarray = (radius - np.hypot(dx * cos + dy * sin, (dy * cos - dx * sin) / stretch)).max(0)
    return level


def _patches(rng: Random, n: int, count: int, radii: tuple[float, float]) -> np.ndarray:
    """Draw a few ragged patches as a level [n, n], positive inside."""
    if not count:
        return np.full((n, n), -1.0)
    blobs = [_blob(rng, n, rng.uniform(0.1, 0.9, 2), rng.uniform(*radii), rough=0.3) for _ in range(count)]
    level: np.ndarray = np.max(blobs, axis=0) + 0.02 * _field(rng, n, 0.03)
    return level


def _hair(rng: Random, n: int) -> np.ndarray:
    """Draw a thin bent line as a level [n, n], positive inside."""
    y, x = _grid(n)
    turn, bend, at = rng.uniform(0, np.pi), rng.normal(0, 0.5), rng.uniform(0.2, 0.8, 2)
    u = (x - at[1]) * np.cos(turn) + (y - at[0]) * np.sin(turn)
    v = (y - at[0]) * np.cos(turn) - (x - at[1]) * np.sin(turn)
    level: np.ndarray = rng.uniform(0.003, 0.007) - np.abs(v - bend * u**2)
    return level


def _blend(image: np.ndarray, colour: np.ndarray, level: np.ndarray, softness: float) -> np.ndarray:
    """Paint the colour where the level is positive; softness is the width of the edge."""
    alpha = 1 / (1 + np.exp(-np.clip(level / softness * 3, -30, 30)))
    painted: np.ndarray = image + alpha[..., None] * (colour - image)
    return painted


def _average(pixels: np.ndarray) -> np.ndarray:
    """Average [n, n, C] over blocks of OVERSAMPLING × OVERSAMPLING pixels."""
    n, _, channels = pixels.shape
    blocks = pixels.reshape(n // OVERSAMPLING, OVERSAMPLING, n // OVERSAMPLING, OVERSAMPLING, channels)
    averages: np.ndarray = blocks.mean((1, 3))
    return averages
