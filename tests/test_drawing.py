"""How images are divided: for testing, to be held out, for validation; and what a split knows of patients."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from test_data import config, write_image, write_mask

from diffseg import data
from diffseg.config import Data
from diffseg.data.drawing import TEST_SHARE, draw, hashed


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


UNITS = st.dictionaries(
    st.text("abcdefgh0123", min_size=1, max_size=4),
    st.tuples(st.integers(0, 12), st.integers(0, 6)).filter(any),
    min_size=2,
    max_size=25,
)
SHARES = st.floats(0.02, 0.98)


def drawn(units, share=TEST_SHARE, seed=0):
    images = max(1, round(share * sum(map(sum, units.values()))))
    return draw(units, images, lambda unit: hashed(f"{seed}/{unit}")), images


def total(units, names):
    return tuple(sum(units[name][kind] for name in names) for kind in (0, 1))


@given(UNITS, SHARES)
def test_both_parts_hold_images_and_about_the_wanted_number(units, share):
    chosen, images = drawn(units, share)
    assert 0 < len(chosen) < len(units)
    assert abs(sum(total(units, chosen)) - images) <= max(map(sum, units.values()))


@given(UNITS, SHARES)
def test_both_parts_hold_foreground_where_two_patients_have_some(units, share):
    chosen, _ = drawn(units, share)
    with_foreground = {name for name, (full, _) in units.items() if full}
    if len(with_foreground) > 1:
        assert with_foreground & chosen
        assert with_foreground - chosen


@given(st.integers(1, 300), st.integers(0, 100), st.integers(0, 3))
def test_single_images_are_balanced_exactly(full, empty, seed):
    """Each on its own: the wanted number to the image, and empty masks in proportion."""
    units = {f"a{k}": (1, 0) for k in range(full)} | {f"b{k}": (0, 1) for k in range(empty)}
    if len(units) < 2:
        return
    chosen, images = drawn(units, seed=seed)
    found = total(units, chosen)
    assert sum(found) == images
    assert abs(found[1] - images * empty / (full + empty)) <= 1
    if full > 1 and empty > 1 and images > 1:
        assert 0 < found[0] < full
        assert 0 < found[1] < empty


@given(st.integers(2, 200), st.integers(0, 5))
def test_single_images_with_foreground_are_those_of_the_lowest_hashes(count, seed):
    units = {f"image{k}": (1, 0) for k in range(count)}
    chosen, images = drawn(units, seed=seed)
    assert chosen == set(sorted(units, key=lambda name: hashed(f"{seed}/{name}"))[:images])


@given(UNITS, st.randoms())
def test_the_order_of_the_listing_does_not_matter(units, random):
    shuffled = list(units)
    random.shuffle(shuffled)
    assert drawn({name: units[name] for name in shuffled})[0] == drawn(units)[0]


@given(st.integers(5, 200), st.booleans())
def test_one_image_more_moves_one_or_two_others(count, is_empty):
    units = {f"image{k}": (k % 4 > 0, k % 4 == 0) for k in range(count)}
    before = drawn(units)[0]
    after = drawn(units | {"new": (not is_empty, is_empty)})[0]
    assert len(after - before - {"new"}) + len(before - after) <= 2


def test_patients_of_very_different_sizes():
    """One patient has more than half of the images: the others are tested on."""
    units = {"large": (60, 0)} | {f"small{k}": (4, 1) for k in range(8)}
    for seed in range(10):
        chosen, _ = drawn(units, seed=seed)
        assert len(chosen) == 4
        assert "large" not in chosen
