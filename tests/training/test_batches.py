import torch
from conftest import split_of

from diffseg.randomness import generator
from diffseg.training.batches import Batches, draw_corners


def split(count=7, height=20, width=30):
    """Return a split in which each pixel encodes its image and place, so that every window is different."""
    pixels = torch.arange(count * height * width).view(count, 1, height, width) % 251
    pixels = [image[:, : height - k, : width - 2 * k] for k, image in enumerate(pixels)]
    return split_of([image.repeat(3, 1, 1).byte() for image in pixels], [(image % 2).byte() for image in pixels])


def test_windows_are_slices():
    data, corners, which = split(), torch.tensor([[0, 0], [3, 5], [4, 14]]), torch.tensor([2, 0, 0])
    images, masks = data.cut_windows(which, corners, 8)
    for k, (index, (top, left)) in enumerate(zip(which.tolist(), corners.tolist(), strict=True)):
        assert torch.equal(images[k], data.images[index][:, top : top + 8, left : left + 8])
        assert torch.equal(masks[k], data.masks[index][:, top : top + 8, left : left + 8])


def test_random_windows_lie_inside_the_image_and_reach_its_borders():
    data, which = split(1, 10, 12), torch.zeros(4000, dtype=torch.long)
    corners = draw_corners(data, which, 8, generator("cpu", 0))
    assert corners.min(0).values.tolist() == [0, 0]
    assert corners.max(0).values.tolist() == [2, 4]


def test_batches_depend_on_the_step_alone_and_cover_every_epoch(tiny):
    config = tiny(data__size=14, data__fit="crop", training__batch=3)
    batches = Batches(split(), config)
    first = [batches._indices(step) for step in range(7)]  # three epochs of seven images
    assert [x.tolist() for x in first] == [Batches(split(), config)._indices(step).tolist() for step in range(7)]
    epochs = torch.cat(first).view(3, 7)
    assert all(sorted(epoch.tolist()) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 3
    a, b = batches(5), Batches(split(), config)(5)
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert a[0].shape == (3, 3, 14, 14)
    assert a[1].shape == (3, 1, 14, 14)
    assert a[0].abs().max() <= 1


def test_a_batch_larger_than_the_data_repeats_images(tiny):
    indices = Batches(split(count=3), tiny(training__batch=8))._indices(1)
    assert len(indices) == 8
    assert set(indices.tolist()) == {0, 1, 2}
