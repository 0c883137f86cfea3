"""Synthetic images and masks of three kinds, each a caricature of a data set of the study.

large: one large object near the centre, like ISIC16's lesions. many: many small ones, like MoNuSeg's nuclei. clusters:
patches of any size, absent in a tenth of the images, like HER2's tumours. Colour alone does not tell the objects: texture,
distractors of like colour, uneven light, blur and noise make the task learnable, not trivial.
"""

import numpy as np

KINDS = ("large", "many", "clusters")
ABSENT = 0.1  # share of images without an object, for clusters
OVERSAMPLING = 2


def draw_image(kind: str, size: int, split: str, index: int) -> tuple[np.ndarray, np.ndarray]:
    """(image uint8 [S, S, 3], mask bool [S, S]); a function of its arguments alone."""
    key = [KINDS.index(kind), ("train", "test").index(split)]
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([*key, index])))
    canvas = OVERSAMPLING * size
    image, mask = {"large": _large, "many": _many, "clusters": _clusters}[kind](rng, canvas)
    image *= 1 + 0.12 * _field(rng, canvas, 0.4)[..., None]  # uneven light
    image = _shrunk(image) + rng.normal(0, 7, (size, size, 3))
    return image.round().clip(0, 255).astype(np.uint8), _shrunk(mask[..., None].astype(float))[..., 0] > 0.5


def _large(rng, n):
    """A lesion on skin, with hairs, small moles and a soft edge."""
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


def _many(rng, n):
    """Nuclei in tissue, among red cells of like size and pale ones of like shape."""
    tissue = rng.normal((222, 178, 205), 8)
    image = tissue + 12 * _field(rng, n, 0.06)[..., None] * (1, 1.4, 0.8)
    for colour, count in (((205, 95, 125), rng.integers(2, 9)), (tissue * 0.93, rng.integers(3, 9))):
        others = _cells(rng, n, count, (0.03, 0.055))
        image = _blend(image, np.asarray(colour), others, softness=0.012)
    nuclei = _cells(rng, n, rng.integers(14, 40), (0.028, 0.06))
    purple = rng.normal((125, 85, 160), 10) + 16 * _field(rng, n, 0.02)[..., None]
    return _blend(image, purple, nuclei, softness=0.012), nuclei > 0


def _clusters(rng, n):
    """Tumour patches, crowded and large-grained, in fibrous tissue with patches of small dark cells that are none."""
    stroma = rng.normal((225, 175, 200), 8)
    fibres = _field(rng, n, (0.02, 0.12))
    image = stroma + 14 * fibres[..., None]
    grains = _field(rng, n, 0.012)
    lymphocytes = _patches(rng, n, rng.integers(0, 3), (0.06, 0.2))
    image = _blend(image, stroma * 0.78 - 34 * (grains > 0.3)[..., None] * (1, 1, 0.4), lymphocytes, softness=0.02)
    if rng.uniform() < ABSENT:
        return image, np.zeros((n, n), bool)
    tumour = _patches(rng, n, rng.integers(1, 4), (0.06, 0.34))
    colour = stroma * rng.normal((0.76, 0.68, 0.86), 0.03) + 20 * _field(rng, n, 0.035)[..., None]
    return _blend(image, colour, tumour, softness=0.02), tumour > 0


def _field(rng, n: int, scale) -> np.ndarray:
    """[n, n] smooth Gaussian noise of unit variance; scale (or one a dimension) is its grain as a share of the side."""
    frequencies = np.fft.fftfreq(n) * n
    sy, sx = np.broadcast_to(scale, 2)
    weight = np.exp(-2 * np.pi**2 * ((frequencies[:, None] * sy) ** 2 + (frequencies * sx) ** 2))
    field = np.fft.ifft2(np.fft.fft2(rng.normal(size=(n, n))) * weight).real
    return (field - field.mean()) / (field.std() + 1e-9)


def _grid(n: int) -> tuple[np.ndarray, np.ndarray]:
    side = (np.arange(n) + 0.5) / n
    return side[:, None], side[None, :]


def _blob(rng, n: int, centre, radius: float, rough: float) -> np.ndarray:
    """[n, n] signed distance-like level of an irregular ellipse, positive inside; lengths are shares of the side."""
    y, x = (axis - c for axis, c in zip(_grid(n), centre, strict=True))
    turn, stretch = rng.uniform(0, np.pi), rng.uniform(0.65, 1)
    u, v = x * np.cos(turn) + y * np.sin(turn), (y * np.cos(turn) - x * np.sin(turn)) / stretch
    angle, waves = np.arctan2(v, u), np.arange(2, 7)
    ripples = rng.normal(0, rough / waves, 5)[:, None, None] * np.cos(
        waves[:, None, None] * angle + rng.uniform(0, 2 * np.pi, (5, 1, 1))
    )
    return radius * (1 + ripples.sum(0)) - np.hypot(u, v)


def _cells(rng, n: int, count: int, radii) -> np.ndarray:
    """[n, n] level of many small ellipses, positive inside any of them."""
    y, x = _grid(n)
    cy, cx, turn = rng.uniform(0, 1, (3, count, 1, 1))
    radius, stretch = rng.uniform(*radii, (count, 1, 1)), rng.uniform(0.6, 1, (count, 1, 1))
    dy, dx, cos, sin = y - cy, x - cx, np.cos(np.pi * turn), np.sin(np.pi * turn)
    return (radius - np.hypot(dx * cos + dy * sin, (dy * cos - dx * sin) / stretch)).max(0)


def _patches(rng, n: int, count: int, radii) -> np.ndarray:
    """[n, n] level of a few ragged patches, positive inside."""
    if not count:
        return np.full((n, n), -1.0)
    blobs = [_blob(rng, n, rng.uniform(0.1, 0.9, 2), rng.uniform(*radii), rough=0.3) for _ in range(count)]
    return np.max(blobs, axis=0) + 0.02 * _field(rng, n, 0.03)


def _hair(rng, n: int) -> np.ndarray:
    """[n, n] level of a thin bent line."""
    y, x = _grid(n)
    turn, bend, at = rng.uniform(0, np.pi), rng.normal(0, 0.5), rng.uniform(0.2, 0.8, 2)
    u = (x - at[1]) * np.cos(turn) + (y - at[0]) * np.sin(turn)
    v = (y - at[0]) * np.cos(turn) - (x - at[1]) * np.sin(turn)
    return rng.uniform(0.003, 0.007) - np.abs(v - bend * u**2)


def _blend(image, colour, level, softness: float) -> np.ndarray:
    """The image with the colour where the level is positive; softness is the width of the edge."""
    alpha = 1 / (1 + np.exp(-np.clip(level / softness * 3, -30, 30)))
    return image + alpha[..., None] * (colour - image)


def _shrunk(pixels: np.ndarray) -> np.ndarray:
    n, _, channels = pixels.shape
    return pixels.reshape(n // OVERSAMPLING, OVERSAMPLING, n // OVERSAMPLING, OVERSAMPLING, channels).mean((1, 3))
