"""Names of images, masks and tables: in any script and Unicode form, with any extension."""

import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_data import config, write_image, write_mask
from test_own_folders import paths, tree

from diffseg import data
from diffseg.data.check import check
from diffseg.data.files import stem
from diffseg.data.pairing import pair_masks
from diffseg.errors import DataError

NAMES = [
    "case.00",
    "case.00.1",
    "a.b c",
    "é",
    "Ü bung",
    "日本",
    "x.nii",
    "a.png",
    "-1",
    "name with  blanks",
    "v1.2_3",
    "=1+1",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_of_images_masks_and_the_table_match_in_any_unicode_form(name, form, tmp_path):
    names = [name, *"uvwxy"]
    for one in names:
        write_image(tmp_path / "images" / f"{unicodedata.normalize(form, one)}.png")
        write_mask(tmp_path / "masks" / f"{unicodedata.normalize('NFC', one)}_mask.png")
    for extensions in (("", ".png") * 3, ("",) * 6, (".png",) * 6):
        lines = [
            f"{unicodedata.normalize('NFD', one)}{extension},{'test' if one in (name, 'u') else 'train'},é{one}\n"
            for one, extension in zip(names, extensions, strict=True)
        ]
        (tmp_path / "split.csv").write_text("name,split,group\n" + "".join(lines), encoding="utf-8")
        found = data.load(config("folder"), tmp_path)
        assert set(found.test.names) == {unicodedata.normalize("NFC", name), "u"}
        assert {record.group for record in found.test.records} == {f"é{unicodedata.normalize('NFC', name)}", "éu"}


def test_two_files_of_one_normalised_name_are_refused(tmp_path):
    tree(tmp_path, *paths("images/{}.png", "masks/{}.png"))
    for form in ("NFC", "NFD"):
        write_image(tmp_path / "images" / f"{unicodedata.normalize(form, 'é')}.png")
    write_mask(tmp_path / "masks" / "é.png")
    if len(os.listdir(tmp_path / "images")) == 7:
        pytest.skip("the file system composes names")
    (problem,) = data.find(config("folder"), tmp_path).problems
    assert "have one name" in problem


@pytest.mark.parametrize("place", ["images/a\udcff.png", "masks/a\udcff.png", "notes\udcff.txt", "\udcff/x.png"])
def test_names_that_are_not_utf8_are_refused(place, tmp_path):
    tree(tmp_path, *paths("images/{}.png", "masks/{}.png"))
    try:
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_bytes((tmp_path / "images/a.png").read_bytes())
    except OSError:
        pytest.skip("the file system takes no such names")
    for look in (check, data.load):
        with pytest.raises(DataError, match=r"\\xff.* has a name that is not UTF-8: rename it") as raised:
            look(config("folder"), tmp_path)
        str(raised.value).encode()


@given(st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=20))
def test_the_stem_is_the_name_without_its_extension(name):
    for extension in (".png", ".JPG", ".nii.gz", ".NII", ".tiff"):
        expected = unicodedata.normalize("NFC", name).strip()
        assert stem(name + extension) == expected
        assert stem(unicodedata.normalize("NFD", name) + extension) == expected


@given(
    st.sets(st.text("ab1_-.", min_size=1, max_size=6), min_size=1, max_size=8),
    st.sampled_from(["{}", "{}_mask", "{}_GT", "mask_{}", "{}-seg"]),
)
def test_pairing_gives_no_mask_to_two_images_and_finds_all(names, form):
    images = {name: [Path(f"{name}.png")] for name in names}
    masks = {form.format(name): [Path(f"{form.format(name)}.png")] for name in names}
    found = pair_masks(images, masks)
    given_to = [path for own in found.masks.values() for path in own.values()]
    assert len(given_to) == len(set(given_to)) == len(names)
    assert {name: list(own.values()) for name, own in found.masks.items()} == {
        name: masks[form.format(name)] for name in names
    }
