"""Kinds of classes that the tests of labels, losses and networks run through, and random masks of them."""

import torch
from conftest import split_of

from diffseg.config import Config
from diffseg.data.splits import Split
from diffseg.labels.classes import IGNORED, Classes
from diffseg.randomness import generator

TWO = [["left", 1], ["right", 2]]
FIVE = [[f"class {number}", number] for number in range(1, 6)]
REGIONS = [["whole", [1, 2, 3]], ["core", [2, 3]], ["enhancing", 3]]  # each within the one before
OVERLAPPING = [["a", [1, 2]], ["b", [2, 3]]]
KINDS = {
    "binary": {},
    "one": {"data.classes": [["lesion", [1, 2]]]},
    "two": {"data.classes": TWO},
    "five": {"data.classes": FIVE},
    "regions": {"data.classes": REGIONS, "data.regions": True},
    "overlapping": {"data.classes": OVERLAPPING, "data.regions": True},
}


def exclusive(count):
    """Return settings of `count` exclusive classes."""
    return {"data.classes": [[f"class {number}", number] for number in range(1, count + 1)]}


def draw_numbers(config: Config, seed: int = 0, count: int = 2, size: int = 16) -> torch.Tensor:
    """Draw stored masks float32 [B, 1, S, S] of smooth areas of all labels, some ignored if the configuration ignores any."""
    draw, classes = generator("cpu", seed, "numbers"), Classes.of(config.data)
    labels = 1 + max(number for numbers in classes.numbers for number in numbers)
    fields = torch.nn.functional.interpolate(torch.rand(count, labels, 5, 5, generator=draw), size, mode="bilinear")
    numbers = fields.argmax(1, keepdim=True).float()
    if classes.ignored:
        holes = torch.nn.functional.interpolate(torch.rand(count, 1, 6, 6, generator=draw), size, mode="nearest") > 0.7
        numbers = numbers.masked_fill(holes, IGNORED)
    return numbers


def draw_coloured(config: Config, count: int, seed: int) -> Split:
    """Draw images whose colours tell the labels, at most five of them, and their masks."""
    numbers = draw_numbers(config, seed, count, config.data.size).to(torch.uint8)
    colours = torch.tensor([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [255, 255, 255]])
    images = colours[numbers[:, 0].long().clamp(max=5)].permute(0, 3, 1, 2).to(torch.uint8).contiguous()
    return split_of(list(images), list(numbers))
