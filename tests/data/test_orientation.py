"""Whether orientation carries meaning: tried on drawn images whose symmetries are known, and on real data."""

import pytest
import torch
from conftest import split_of

from diffseg.config import Config
from diffseg.data import load
from diffseg.data.orientation import find_orientation
from diffseg.randomness import generator


def draw(place, count=40, side=24):
    """Return a split of noisy images with one object at a place, a function of a generator that returns (top, left)."""
    source = generator("cpu", 0)
    images, masks = [], []
    for _ in range(count):
        top, left = place(source)
        mask = torch.zeros(1, side, side, dtype=torch.uint8)
        mask[:, top : top + 6, left : left + 6] = 1
        noise = torch.randint(0, 100, (3, side, side), generator=source)
        images.append((noise + 100 * mask).to(torch.uint8))
        masks.append(mask)
    return split_of(images, masks)


def anywhere(source):
    return torch.randint(0, 19, (2,), generator=source).tolist()


PLACES = {
    "none": lambda source: (9, int(torch.randint(0, 6, (), generator=source))),  # on the left
    "horizontal": lambda source: (int(torch.randint(0, 6, (), generator=source)), anywhere(source)[1]),  # at the top
    "both": lambda source: (9, anywhere(source)[1]),  # along the middle row
    "symmetries": anywhere,
}


@pytest.mark.parametrize("flips", PLACES)
def test_the_flips_are_those_that_the_images_have(flips):
    found = find_orientation(draw(PLACES[flips]))
    assert found.flips == flips
    assert ("carries no meaning" in str(found)) == (flips == "symmetries")


def test_images_without_a_meaning_of_orientation_are_rarely_taken_for_others():
    """Of 200 sets of 30 images."""
    source, wrong = generator("cpu", 1), 0
    for _ in range(200):
        images = [torch.randint(0, 255, (1, 8, 8), dtype=torch.uint8, generator=source) for _ in range(30)]
        masks = [(image > 128).byte() for image in images]
        wrong += find_orientation(split_of(images, masks)).flips != "symmetries"
    assert wrong <= 16  # 8 %


def test_slices_of_a_volume_count_as_one():
    """Two volumes of many slices, each with its object on another side, say nothing."""
    split = draw(PLACES["none"], 20)
    grouped = type(split)(**{**vars(split), "groups": ("a",) * 10 + ("b",) * 10})
    found = find_orientation(grouped)
    assert (found.flips, found.units) == ("none", 2)
    assert "too few to tell" in str(found)


@pytest.mark.parametrize("kind", ["many", "clusters"])
def test_synthetic_images_have_no_orientation(kind):
    data = Config().with_leaves({"data.kind": kind, "data.train_images": 60, "data.size": 24}).data
    assert find_orientation(load(data, None).train).flips == "symmetries"


@pytest.mark.slow
def test_hippocampi_lie_as_they_do_and_gland_images_anyhow(real_data):
    """Of real data sets."""
    kinds = {
        "hippocampus/Task04_Hippocampus": (
            "none",
            {"data.layout": "nnunet", "data.channels": 1, "data.normalise": "case"},
        ),
        "monuseg": ("symmetries", {"data.layout": "monuseg", "data.fit": "crop", "data.scale": 0.25}),
    }
    for name, (flips, leaves) in kinds.items():
        named = {"data.classes": {"Anterior": 1, "Posterior": 2}} if flips == "none" else {}
        data = Config().with_leaves({"data.name": "mine", "data.size": 32} | leaves | named).data
        assert find_orientation(load(data, real_data / name).train).flips == flips
