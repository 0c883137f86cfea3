"""How images are divided: for testing, to be held out, for validation; and what a split knows of patients."""

import torch
from test_data import config, write_image, write_mask

from diffseg import data
from diffseg.config import Data


def patients(root, sizes: dict[str, int]):
    """A folder of pictures, with their patients in split.csv."""
    rows = [(f"{patient}-{k}", patient) for patient, count in sizes.items() for k in range(count)]
    for name, _ in rows:
        write_image(root / "images" / f"{name}.png")
        write_mask(root / "masks" / f"{name}.png")
    (root / "split.csv").write_text("name,group\n" + "".join(f"{name},{patient}\n" for name, patient in rows))


def test_a_split_knows_the_group_of_each_image(tmp_path):
    """Freshly decoded, from the cache, and in part."""
    patients(tmp_path / "root", {"p1": 3, "p2": 2, "p3": 1})
    for _ in range(2):
        found = data.load(config("folder"), tmp_path / "root", tmp_path / "cache")
        for split in (found.train, found.test):
            assert split.groups == tuple(name[:2] for name in split.names)
            assert split.subset(torch.tensor([0])).groups == split.groups[:1]


def test_synthetic_images_have_no_group():
    found = data.load(Data(train_images=3, test_images=2), None)
    assert (found.train.groups, found.test.groups) == ((None,) * 3, (None,) * 2)
