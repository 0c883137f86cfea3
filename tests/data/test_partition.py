"""The partition of images for testing, for holding out and for validation, which never divides a patient."""

import dataclasses
import itertools

import pytest
import torch
from conftest import split_of
from hypothesis import given
from hypothesis import strategies as st
from test_data import config, write_image, write_mask

from diffseg import data
from diffseg.config import Data
from diffseg.data.partition import (
    TEST_SHARE,
    assign_splits,
    choose_units,
    hash_key,
    held_out_share,
    hold_out,
    interleave_groups,
    limit_records,
)
from diffseg.data.records import Record
from diffseg.errors import DataError


def patients(root, sizes: dict[str, int]):
    """Write a folder of pictures, with their patients in split.csv."""
    rows = [(f"{patient}-{k}", patient) for patient, count in sizes.items() for k in range(count)]
    for name, _ in rows:
        write_image(root / "images" / f"{name}.png")
        write_mask(root / "masks" / f"{name}.png")
    (root / "split.csv").write_text("name,group\n" + "".join(f"{name},{patient}\n" for name, patient in rows))


def test_a_split_knows_the_group_of_each_image(tmp_path):
    """Decoded, from the cache, and as a subset."""
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
    return choose_units(units, images, lambda unit: hash_key(f"{seed}/{unit}")), images


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
    """Single images give exactly the wanted number, with empty masks in proportion."""
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
def test_single_images_with_foreground_are_chosen_by_the_lowest_hashes(count, seed):
    units = {f"image{k}": (1, 0) for k in range(count)}
    chosen, images = drawn(units, seed=seed)
    assert chosen == set(sorted(units, key=lambda name: hash_key(f"{seed}/{name}"))[:images])


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
    """If one patient has more than half of the images, the others are tested on."""
    units = {"large": (60, 0)} | {f"small{k}": (4, 1) for k in range(8)}
    for seed in range(10):
        chosen, _ = drawn(units, seed=seed)
        assert len(chosen) == 4
        assert "large" not in chosen


def test_a_patient_of_whom_some_images_have_a_split_follows_it(tmp_path):
    """Of either split; the other images are drawn."""
    patients(tmp_path, {f"p{k}": 3 for k in range(10)})
    lines = (tmp_path / "split.csv").read_text().splitlines()[1:]
    given = {"p0-1": "test", "p1-2": "train", "p2-0": "val"}
    rows = [f"{line},{given.get(line.partition(',')[0], '')}" for line in lines]
    (tmp_path / "split.csv").write_text("\n".join(["name,group,split", *rows]))
    for seed in range(8):
        found = data.load(config("folder", split_seed=seed), tmp_path)
        assert "p0" in set(found.test.groups)
        assert {"p1", "p2"} <= set(found.train.groups)
        assert not set(found.test.groups) & set(found.train.groups)
        assert len(found.test.names) > 3


def test_both_parts_have_empty_masks(tmp_path):
    """In a folder without splits, with some images held out."""
    for k in range(40):
        write_image(tmp_path / "images" / f"{k}.png")
        write_mask(tmp_path / "masks" / f"{k}.png", values=(0,) if k < 10 else (0, 255))
    for seed in range(5):
        found = data.load(config("folder", split_seed=seed, held_out=0.25), tmp_path)
        counts = [sum(not bool(mask.any()) for mask in split.masks) for split in (found.train, found.test)]
        assert (len(found.train.names), len(found.test.names), counts) == (24, 8, [6, 2])


@pytest.mark.parametrize("rows", ["name,group\na,p1\nb,p1\nc,p1\n", None])
def test_a_single_patient_or_image_is_refused_in_a_sentence(rows, tmp_path):
    for name in "abc" if rows else "a":
        write_image(tmp_path / "images" / f"{name}.png")
        write_mask(tmp_path / "masks" / f"{name}.png")
    if rows:
        (tmp_path / "split.csv").write_text(rows)
    words = "all 3 images of .* are of one patient or volume, p1: a data set needs" if rows else "has no test images"
    with pytest.raises(DataError, match=words):
        data.load(config("folder"), tmp_path)


def split_with(groups, empty=()):
    """Return a split of images of 4 px with these groups; those numbered by `empty` have no foreground."""
    masks = [torch.full((1, 2, 2), int(k not in empty), dtype=torch.uint8) for k in range(len(groups))]
    found = split_of([torch.zeros(1, 2, 2, dtype=torch.uint8)] * len(groups), masks)
    return dataclasses.replace(found, groups=tuple(groups))


@given(st.lists(st.sampled_from("abcdefg"), min_size=8, max_size=60), st.floats(0.1, 0.9), st.randoms())
def test_patients_are_held_out_whole_and_every_image_once(groups, share, random):
    split = split_with([None if group == "a" else group for group in groups])
    rank = list(range(len(groups)))
    random.shuffle(rank)
    if len({group or name for group, name in zip(split.groups, split.names, strict=True)}) < 2:
        return
    rest, held = hold_out(split, share, rank, "data.held_out", "mine")
    assert rest.names
    assert held.names
    assert sorted(rest.names + held.names) == sorted(split.names)
    assert not set(rest.groups) & set(held.groups) - {None}
    largest = max(map(groups.count, groups))
    assert abs(len(held.names) - round(share * len(groups))) <= largest


@given(st.integers(4, 40), st.floats(0.1, 0.9), st.randoms())
def test_single_images_are_held_out_by_their_ranks(count, share, random):
    held = round(share * count)
    if not 0 < held < count:
        return
    rank = list(range(count))
    random.shuffle(rank)
    found = hold_out(split_with([None] * count), share, rank, "training.validation", "mine")[1]
    assert set(found.names) == {str(k) for k in range(count) if rank[k] < held}


@pytest.mark.parametrize("parts", [2, 3, 5])
@given(st.lists(st.integers(0, 12), min_size=30, max_size=80), st.booleans(), st.randoms())
def test_the_parts_of_cross_validation_share_no_image_and_are_all_images(parts, groups, grouped, random):
    split = split_with(
        [f"p{group}" if grouped else None for group in groups], empty=random.sample(range(len(groups)), 6)
    )
    rank, largest = random.sample(range(len(groups)), len(groups)), max(map(groups.count, groups)) if grouped else 1
    if len(set(groups)) < 3 * parts or largest > len(groups) / parts / 2:
        return
    found = [hold_out(split, 1 / parts, rank, "data.held_out", "mine", fold) for fold in range(parts)]
    held = [name for _, part in found for name in part.names]
    assert sorted(held) == sorted(split.names)
    assert all(sorted(rest.names + part.names) == sorted(split.names) for rest, part in found)
    assert hold_out(split, 1 / parts, rank, "data.held_out", "mine")[1].names == found[0][1].names
    patients = [set(part.groups) - {None} for _, part in found]
    assert not any(one & other for one, other in itertools.combinations(patients, 2))
    assert all(0 < len(part.names) < 1.6 * len(groups) / parts + largest for _, part in found)


def test_a_part_for_which_nothing_is_left_is_refused():
    split = split_with(["p1"] * 4 + ["p2"] * 4)
    assert hold_out(split, 0.25, range(8), "data.held_out", "mine", 1)[1].names == ("4", "5", "6", "7")
    with pytest.raises(
        DataError, match=r"data.fold is 2, but of the 8 training images of mine nothing is left .* 2 are held"
    ):
        hold_out(split, 0.25, range(8), "data.held_out", "mine", 2)


@pytest.mark.parametrize(
    ("units", "least", "share"), [(100, 0, 0.2), (100, 20, 0.2), (100, 30, 0.3), (40, 30, 0.5), (20, 30, 0.5)]
)
def test_more_is_held_out_where_units_are_few(units, least, share):
    found = held_out_share(Data(held_out=0.2, held_out_least=least), [f"p{k}" for k in range(units)] * 3)
    assert found == pytest.approx(share)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"fold": 1}, "fold is 1, but held_out is 0"),
        ({"held_out_least": 30}, "held_out_least is 30, but held_out is 0"),
        ({"held_out": 0.2, "fold": 5}, "there are 5 parts: allowed are 0 to 4"),
        ({"held_out": 0.6, "fold": 1}, "there are 1 parts: allowed are 0 to 0"),
    ],
)
def test_parts_that_are_not_held_out_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        Data(**settings)


def test_a_single_patient_cannot_be_held_out():
    with pytest.raises(DataError, match=r"training.validation=0.25 holds out whole .* all 8 .* of mine are of p1: add"):
        hold_out(split_with(["p1"] * 8), 0.25, range(8), "training.validation", "mine")


def test_e1s_validation_keeps_patients_whole(tiny, tmp_path, monkeypatch):
    from diffseg.training import epoch_selection as selection
    from diffseg.training.hooks import Hooks

    seen = {}

    def remember(state, split, config):
        seen["validation"] = set(split.groups)
        return measured(state, split, config)

    def remember_training(config, split, *rest):
        seen["training"] = set(split.groups)
        return train(config, split, *rest)

    measured, train = selection._measure_validation_loss, selection.train
    monkeypatch.setattr(selection, "_measure_validation_loss", remember)
    monkeypatch.setattr(selection, "train", remember_training)
    config = tiny(experiment="e1", training__validation=0.25, training__batch=3, training__steps=3)
    whole = data.load(config.data, None).train
    groups = tuple(f"p{k // 3}" for k in range(12))
    selection.select_epochs(config, dataclasses.replace(whole, groups=groups), tmp_path, Hooks())
    assert len(seen["validation"]) == 1
    assert seen["training"] == set(groups) - seen["validation"]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 60))
def test_limits_choose_images_from_as_many_patients_as_possible(sizes, limit):
    records = [
        Record(f"p{patient}/{k}", "train", None, (), f"p{patient}")
        for patient, count in enumerate(sizes)
        for k in range(count)
    ]
    chosen = limit_records(records, limit)
    counts = [sum(record.group == f"p{patient}" for record in chosen) for patient in range(len(sizes))]
    assert len(chosen) == min(limit, len(records))
    assert all(count == size or count >= max(counts) - 1 for count, size in zip(counts, sizes, strict=True))
    assert chosen == limit_records(records[::-1], limit) == sorted(chosen, key=lambda record: record.name)


@given(st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=60), st.integers(1, 60))
def test_the_first_few_images_are_from_as_many_patients_as_possible(groups, few):
    split = split_with(sorted(groups))
    order = interleave_groups(split)
    assert sorted(order.tolist()) == list(range(len(groups)))
    assert len(set(split.subset(order[:few]).groups)) == min(few, len(set(groups)))
    assert interleave_groups(split_with([None] * len(groups))).tolist() == list(range(len(groups)))


def test_splits_do_not_depend_on_the_order_of_the_listing():
    records = [Record(f"{k}", None, None, (), f"p{k % 7}" if k % 3 else None) for k in range(50)]
    found = {record.name: record.split for record in assign_splits(records, 0, masks=False)}
    assert found == {record.name: record.split for record in assign_splits(records[::-1], 0, masks=False)}
    assert set(found.values()) == {"train", "test"}
