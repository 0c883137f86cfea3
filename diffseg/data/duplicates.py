"""Images of a data set that are copies of each other, or look nearly alike."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from diffseg.data.findings import SPLITS, ImageFindings
from diffseg.data.records import Record

SIDE = 32  # px, of the thumbnails that are compared
BLUR = 1.5  # px, the standard deviation of the Gaussian that is subtracted from them
ALIKE = 0.85  # correlation of descriptors: of different lesions of ISIC16 at most 0.75, of neighbouring CT slices 0.90
CHUNK = 2048  # test images compared at once


def compute_descriptor(image: np.ndarray) -> np.ndarray:
    """Return the fine details of an image [H, W, C], as float32 [D] of length 1, or of length 0 for an image without any.

    These are those of a gray thumbnail minus its blurred copy: what all images of a kind share, such as place, size and
    shading, is left out.
    """
    from scipy.ndimage import gaussian_filter

    gray = Image.fromarray(image.mean(2, dtype=np.float32))
    small = np.asarray(gray.resize((SIDE, SIDE), Image.Resampling.BOX), np.float64)
    found = (small - gaussian_filter(small, BLUR)).ravel()
    found -= found.mean()
    length = np.linalg.norm(found)
    return np.asarray(found / length if length > 1e-6 * np.abs(small).max() else 0 * found, np.float32)


def find_copies(images: Sequence[ImageFindings]) -> list[str]:
    """Return sentences on images of equal pixels, those that are in both splits first: these make results too good."""
    same: dict[bytes, list[Record]] = {}
    for image in images:
        if image.pixels:
            same.setdefault(image.pixels, []).append(image.record)
    found = []
    for records in same.values():
        if len(records) > 1:
            across = len({record.split for record in records}) > 1
            found.append((not across, f"{records[0].image} and {records[1].image} hold the same image", across))
    sentences = [sentence + " in training and testing" * across for _, sentence, across in sorted(found)]
    more = [f"{len(sentences) - 2} more images occur more than once"]
    return sentences if len(sentences) <= 3 else sentences[:2] + more


def find_lookalikes(images: Sequence[ImageFindings]) -> list[str]:
    """Return a sentence on the test images that look nearly like a training image but are no copies of one."""
    train, test = ([image for image in images if image.record.split == split] for split in SPLITS)
    pairs = _match_descriptors(train, test)
    if not pairs:
        return []
    value, image, other = max(pairs)
    count = f"{len(pairs)} test images look" if pairs[1:] else "1 test image looks"
    return [
        f"{count} nearly like a training image, such as {image} like {other} (their details correlate by {value:.2f}): "
        "neighbouring slices or edited copies make results too good, so keep each patient in one split, for example by the "
        "column group of split.csv"
    ]


def _match_descriptors(train: Sequence[ImageFindings], test: Sequence[ImageFindings]) -> list[tuple[float, str, str]]:
    """Return (correlation, test image, training image) for each test image and its best match, above ALIKE."""
    if not train or not test:
        return []
    known, pairs = np.stack([image.descriptor for image in train]), []
    for first in range(0, len(test), CHUNK):
        some = test[first : first + CHUNK]
        likeness = np.stack([image.descriptor for image in some]) @ known.T
        for image, best in zip(some, likeness.argmax(1), strict=True):
            value = float(image.descriptor @ known[best])
            if value > ALIKE and image.pixels != train[best].pixels:
                pairs.append((value, str(image.record.image), str(train[best].record.image)))
    return pairs
