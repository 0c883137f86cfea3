"""Batches of test images of one size, which are measured at once."""

from collections import defaultdict
from collections.abc import Iterable, Iterator

import torch

from diffseg.evaluation.images import TestImage, TestImages

GATHERED = 64  # images that are gathered, to be stacked by their size
LARGEST = {
    "cpu": 2**16,
    "cuda": 2**23,
}  # pixels of a batch, times the classes: beyond, a CPU's caches no longer hold them


def stack_by_size(images: Iterable[TestImage]) -> Iterator[tuple[list[int], TestImages]]:
    """Yield batches of images of one size, with the places of the images among all. They come nearly in order."""
    gathered: dict[torch.Size, list[tuple[int, TestImage]]] = defaultdict(list)
    for place, image in enumerate(images):
        shape = image.raters.shape
        gathered[shape].append((place, image))
        if len(gathered[shape]) == _batch_size(image):
            yield _stack(gathered.pop(shape))
        elif sum(map(len, gathered.values())) == GATHERED:
            yield _stack(gathered.pop(max(gathered, key=lambda shape: len(gathered[shape]))))
    for rest in gathered.values():
        yield _stack(rest)


def _batch_size(image: TestImage) -> int:
    """Return the number of images like this one that are measured at once."""
    classes, height, width = image.raters.shape[1:]
    return max(1, min(GATHERED, LARGEST[image.raters.device.type] // (classes * height * width)))


def _stack(numbered: list[tuple[int, TestImage]]) -> tuple[list[int], TestImages]:
    """Return the places and the batch."""
    places, images = zip(*numbered, strict=True)
    return list(places), TestImages(images)
