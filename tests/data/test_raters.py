"""Several masks of an image in a folder of one's own: those of raters, or objects that are united."""

import numpy as np
import pytest
from PIL import Image
from test_data import config, write_image, write_mask
from test_own_folders import paths, tree

from diffseg import data
from diffseg.data.check import check
from diffseg.errors import DataError

SIZE = (20, 24)


def spots(root, form, counts, apart=True):
    """Write images, the k-th with counts[k] masks, which mark separate places, or else one around the other."""
    for name, count in zip("abcdef", counts, strict=False):
        write_image(root / "images" / f"{name}.png")
        for k in range(count):
            mask = np.zeros(SIZE, np.uint8)
            row = 2 * (k % 9) if apart else 0
            mask[row : row + 1 if apart else 2 + k, 2:9] = 255
            path = root / "masks" / form.format(name=name, k=k)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(path)


NESTED = ["{name}/images/{name}.png {name}/masks/{k}{name}f.png", "images/{name}.png masks/{name}/{k}.png"]


def nested(root, form, masks):
    """Write images with masks in a folder for each image. masks: of each image, the rows of each mask."""
    for name, rows in zip(("0a1", "7c2", "9f3", "e04"), masks, strict=True):
        image, mask = form.split()
        write_image(root / image.format(name=name))
        for k, (top, bottom) in enumerate(rows):
            pixels = np.zeros(SIZE, np.uint8)
            pixels[top:bottom, 2:9] = 255
            path = root / mask.format(name=name, k=k)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)


@pytest.mark.parametrize("form", NESTED)
@pytest.mark.parametrize("counts", [(1, 2, 3, 4), (3, 3, 3, 3), (1, 1, 1, 2)])
def test_masks_in_a_folder_for_each_image_are_objects(form, counts, tmp_path, caplog):
    """As in the 2018 Data Science Bowl. No question is asked, but a remark says so."""
    nested(tmp_path, form, [[(4 * k, 4 * k + 3) for k in range(count)] for count in counts])
    found = data.load(config("folder"), tmp_path)
    assert sorted((*found.train.objects, *found.test.objects)) == sorted(counts)
    assert sorted(len(np.unique(one)) - 1 for split in (found.train, found.test) for one in split.instances) == sorted(
        counts
    )
    assert found.train.masks.channels == 1
    assert "in a folder for each image and are taken for objects" in caplog.text
    assert check(config("folder"), tmp_path).problems == ()


@pytest.mark.parametrize("form", NESTED)
@pytest.mark.parametrize("third", [[(8, 19)], []])  # without it, all images have the same number of masks
def test_objects_in_a_folder_for_each_image_may_touch_and_overlap_a_little(third, form, tmp_path):
    overlapping = [(0, 5), (5, 9), *third] if third else [(0, 11), (10, 19)]
    nested(tmp_path, form, [[(0, 5), (5, 9)], overlapping, [(0, 5), (5, 9)], [(1, 2), (4, 6)]])
    found = data.load(config("folder"), tmp_path)
    assert found.train.masks.channels == 1
    assert found.train.instances is not None


@pytest.mark.parametrize("form", NESTED)
def test_masks_that_overlap_in_a_folder_for_each_image_are_raters_or_asked_about(form, tmp_path, caplog):
    nested(tmp_path, form, [[(0, 5), (1, 6)]] * 4)
    assert data.load(config("folder"), tmp_path).train.masks.channels == 2
    assert "overlap by up to 67%, so that they are taken for those of raters: data.objects=true" in caplog.text
    (tmp_path / "more").mkdir()
    nested(tmp_path / "more", form, [[(0, 5), (1, 6)]] * 3 + [[(0, 5), (1, 6), (2, 7)]])
    with pytest.raises(DataError, match=r"of their image, as those of objects do, but \d+% of the pixels"):
        data.load(config("folder"), tmp_path / "more")
    assert data.load(config("folder", objects=True), tmp_path / "more").train.masks.channels == 1


FORMS = [
    "{name}_{k}.png", "{name}_mask_{k}.png", "{name}-{k}.png", "{name}_r{k}.png", "{name}_Rater{k}.png", "{name}_gt_r{k}.png",
    "{name}-rater{k}_seg.png",
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_masks_that_never_overlap_are_asked_about_and_united_as_objects(form, tmp_path):
    spots(tmp_path, form, [3] * 6)
    with pytest.raises(
        DataError, match=r"mark different places.*data\.objects=true unites them.*set data\.objects=false"
    ):
        data.load(config("folder"), tmp_path)
    assert any("data.objects=true" in problem for problem in check(config("folder"), tmp_path).problems)
    united = data.load(config("folder", objects=True, fit="crop"), tmp_path).train
    assert united.masks.channels == 1
    assert set(united.objects) == {3}
    assert {int(mask.sum()) for mask in united.masks} == {21}
    report = check(config("folder", objects=True), tmp_path)
    assert (report.problems, report.splits["train"].raters, report.splits["train"].objects) == ((), 1, 3)
    assert data.load(config("folder", objects=False), tmp_path).train.masks.channels == 3


@pytest.mark.parametrize("form", FORMS)
def test_objects_may_differ_in_number_and_be_many(form, tmp_path):
    spots(tmp_path, form, [1, 12, 3, 9, 2, 11])
    with pytest.raises(DataError, match=r"set data\.objects=true if each file is an object"):
        data.load(config("folder"), tmp_path)
    found = data.load(config("folder", objects=True), tmp_path)
    assert sorted((*found.train.objects, *found.test.objects)) == [1, 2, 3, 9, 11, 12]


@pytest.mark.parametrize("form", [*FORMS, "{name}/{k}.png"])
def test_overlapping_masks_are_raters_of_whom_there_may_be_more_than_ten(form, tmp_path):
    spots(tmp_path, form, [12] * 6, apart=False)
    found = data.load(config("folder"), tmp_path).train
    assert found.masks.channels == 12
    areas = [int(mask.sum()) for mask in data.load(config("folder", fit="crop"), tmp_path).train.masks[0]]
    assert areas == sorted(areas) or form == "{name}/{k}.png"


@pytest.mark.parametrize("form", ["masks/{name}_{k}.png", "masks_{k}/{name}.png"])
@pytest.mark.parametrize("name", "abf")
def test_an_image_that_lacks_one_of_three_raters_is_named(form, name, tmp_path):
    for k in range(3):
        for image in "abcdef":
            write_image(tmp_path / "images" / f"{image}.png")
            write_mask(tmp_path / form.format(name=image, k=k))
    (tmp_path / form.format(name=name, k=1)).unlink()
    (problem,) = check(config("folder"), tmp_path).problems
    assert problem.startswith(f"{tmp_path / 'images' / name}.png has ")
    assert (
        "2 raters (0 and 2), but most images have 3 (0 and 1 and 2)" in problem or "masks in 2 of 3 folders" in problem
    )


def test_raters_may_be_sub_folders_of_masks(tmp_path):
    for rater in ("anna", "ben"):
        tree(tmp_path, *paths("images/{}.png", f"masks/{rater}/{{}}_mask.png"))
    assert data.load(config("folder"), tmp_path).train.masks.channels == 2
    (tmp_path / "masks/ben/c_mask.png").unlink()
    (problem,) = data.find(config("folder"), tmp_path).problems
    assert "c.png has 1 rater (anna), but most images have 2 (anna and ben)" in problem


@pytest.mark.parametrize("other", ["a_01.png", "a_r1.png", "a_rater1.png", "a-1.png"])
def test_two_masks_of_one_image_and_number_are_refused(other, tmp_path):
    spots(tmp_path, "{name}_{k}.png", [2] * 6, apart=False)
    write_mask(tmp_path / "masks" / other)
    assert any(f"{one} have one name and number" in problem
               for problem in data.find(config("folder"), tmp_path).problems for one in (other, "a_1.png"))  # fmt: skip


@pytest.mark.parametrize("suffix", ["_1", "_r1", "_rater1"])
def test_an_image_whose_name_ends_as_that_of_a_rater_has_its_own_mask(suffix, tmp_path):
    tree(tmp_path, *paths("images/{}.png", "masks/{}.png"), f"images/a{suffix}.png", f"masks/a{suffix}.png")
    found = data.find(config("folder"), tmp_path)
    assert found.problems == ()
    assert all(record.annotations[0].name == record.image.name for record in found.records)
