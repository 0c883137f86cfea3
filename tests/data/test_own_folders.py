"""The layout `folder`: where images and masks may lie, affixes of names, sub-folders of patients and of classes."""

import nibabel
import numpy as np
import pytest
from test_data import config, folder, write_image, write_mask

from diffseg import data
from diffseg.data.check import check
from diffseg.errors import DataError


def tree(root, *paths):
    """Write a file at each path: a mask where the name of the file or of a folder says so, an image elsewhere."""
    for path in paths:
        name = path.lower()
        is_mask = any(word in name for word in ("mask", "segm", "label", "lesion", "gt", "_seg", "annot"))
        (write_mask if is_mask else write_image)(root / path)


def paths(images, masks, names="abcdef"):
    return [form.format(name) for name in names for form in (images, masks)]


SPLIT = "train/{0}", "test/{0}"

LAYOUTS = {  # by name: files, words of the expected remark (or None), names of the expected images
    "plain": (paths("images/{}.png", "masks/{}.png"), None, "abcdef"),
    **{
        f"suffix {suffix}": (paths("images/{}.png", f"masks/{{}}{suffix}.png"), f"with {suffix.lower()}", "abcdef")
        for suffix in ("_mask", "_segmentation", "_Segmentation", "_label", "_lesion", "_gt", "_seg", "-mask", "_MASK", " mask")
    },
    "prefix": (paths("images/{}.png", "masks/mask_{}.png"), "with mask_", "abcdef"),
    "both affixes": (paths("images/{}_image.png", "masks/{}_mask.png"), "images have _image", [f"{k}_image" for k in "abcdef"]),
    "both prefixes": (paths("images/image_{}.png", "masks/mask_{}.png"), "images have image_", [f"image_{k}" for k in "abcdef"]),
    "extensions": (paths("images/{}.JPG", "masks/{}.PNG"), None, "abcdef"),
    "other folder names": (paths("Imgs/{}.png", "Annotations/{}.png"), "masks are taken from", "abcdef"),
    "capitals": (paths("Images/{}.png", "Masks/{}.png"), None, "abcdef"),
    "splits of other names": (
        paths("Training/images/{}.png", "Training/masks/{}.png", "abcd")
        + paths("testing/images/{}.png", "testing/masks/{}.png", "ef"),
        None, "abcdef",
    ),
    "valid is trained on": (
        paths("train/images/{}.png", "train/masks/{}.png", "abc") + paths("valid/images/{}.png", "valid/masks/{}.png", "d")
        + paths("test/images/{}.png", "test/masks/{}.png", "ef"), None, "abcdef",
    ),
    "splits below images": (
        paths("images/train/{}.png", "masks/train/{}.png", "abcd") + paths("images/test/{}.png", "masks/test/{}.png", "ef"),
        None, "abcdef",
    ),
    "one folder of masks": (
        paths("train/images/{}.png", "masks/{}.png", "abcd") + paths("test/images/{}.png", "masks/{}.png", "ef"),
        "masks of all splits are taken from", "abcdef",
    ),
    "one folder of masks beside images": (
        paths("train/{}.png", "masks/{}_mask.png", "abcd") + paths("test/{}.png", "masks/{}_mask.png", "ef"),
        "masks of all splits are taken from", "abcdef",
    ),
    "images around masks": (paths("{}.png", "masks/{}.png"), None, "abcdef"),
    "side by side": (paths("images/{}.png", "images/{}_mask.png"), "taken from one folder", "abcdef"),
    "side by side at the root": (paths("{}.png", "{}_mask.png"), "taken from one folder", "abcdef"),
    "side by side in splits": (
        paths("train/{}.png", "train/{}_segmentation.png", "abcd") + paths("test/{}.png", "test/{}_segmentation.png", "ef"),
        "taken from one folder", "abcdef",
    ),
    "classes": (
        paths("images/benign/{}.png", "masks/benign/{}.png", "abc")
        + paths("images/malignant/{}.png", "masks/malignant/{}.png", "abc"),
        "benign, malignant are taken for classes", [f"{c}/{k}" for c in ("benign", "malignant") for k in "abc"],
    ),
    "classes side by side": (
        paths("benign/{}.png", "benign/{}_mask.png", "abc") + paths("normal/{}.png", "normal/{}_mask.png", "abc"),
        "benign, normal are taken for classes", [f"{c}/{k}" for c in ("benign", "normal") for k in "abc"],
    ),
    "classes with flat masks": (
        paths("images/benign/{}.png", "masks/{}.png", "abc") + paths("images/malignant/{}.png", "masks/{}.png", "def"),
        "taken for classes", [*(f"benign/{k}" for k in "abc"), *(f"malignant/{k}" for k in "def")],
    ),
    "flat images with masks by class": (
        paths("images/{}.png", "masks/x/{}.png", "abc") + paths("images/{}.png", "masks/y/{}.png", "def"), None, "abcdef",
    ),
    "a folder of masks for each image": (paths("images/{}.png", "masks/{}/only.png"), None, "abcdef"),
    "folders of patients": (
        paths("P1/images/{}.png", "P1/masks/{}.png", "abc") + paths("P2/images/{}.png", "P2/masks/{}.png", "abc"),
        "hold images and masks each / the 2 sub-folders, such as P1", [f"{p}/{k}" for p in ("P1", "P2") for k in "abc"],
    ),
    "folders of images": (
        [path for k in "abcdef" for path in (f"{k}{k}/images/{k}.png", f"{k}{k}/masks/0{k}0.png")],
        "hold images and masks each", [f"{k}{k}/{k}" for k in "abcdef"],
    ),
    "litter": (
        [*paths("images/{}.png", "masks/{}.png"), "images/._a.png", "images/.a.png", "__MACOSX/images/a.png",
         "images/__MACOSX/a.png", "masks/._a.png"], None, "abcdef",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", LAYOUTS)
def test_common_folder_layouts_are_read_and_guesses_are_reported(kind, tmp_path):
    files, words, names = LAYOUTS[kind]
    tree(tmp_path, *files)
    (tmp_path / "Thumbs.db").write_bytes(b"?")
    found = data.find(config("folder"), tmp_path)
    assert found.problems == ()
    assert sorted(record.name for record in found.records) == sorted(names)
    assert all(len(record.annotations) == 1 for record in found.records)
    assert {record.split for record in found.records} in ({"train", "test"}, {None})
    base = {
        record.name: record.name.rsplit("/", 1)[-1].removesuffix("_image").removeprefix("image_")
        for record in found.records
    }
    for record in found.records:
        assert base[record.name] in "/".join(record.annotations[0].parts[-2:])
    remarks = " / ".join(found.remarks)
    assert (words in remarks) if words else not remarks
    loaded = data.load(config("folder"), tmp_path)
    assert loaded.train.masks.values.any()
    report = check(config("folder"), tmp_path)
    assert not report.problems
    assert not [suspicion for suspicion in report.suspicions if "not used" in suspicion]


def test_sub_folders_of_patients_become_groups(tmp_path):
    for patient in range(10):
        tree(tmp_path, *paths(f"images/p{patient}/{{}}.png", f"masks/p{patient}/{{}}_mask.png", "abc"))
    found = data.find(config("folder"), tmp_path)
    assert {record.group for record in found.records} == {f"p{k}" for k in range(10)}
    loaded = data.load(config("folder"), tmp_path)
    assert loaded.test.groups
    assert not set(loaded.train.groups) & set(loaded.test.groups)
    assert "the 10 sub-folders, such as p0, are taken for patients" in " ".join(found.remarks)
    (tmp_path / "split.csv").write_text(
        "name,group\n" + "".join(f"p{p}/{k},g{p // 2}\n" for p in range(10) for k in "abc")
    )
    assert {record.group for record in data.find(config("folder"), tmp_path).records} == {f"g{k}" for k in range(5)}


PATIENTS = {  # by name: the folders of a patient among others that have images/ and masks/, and words of the problem
    "no masks": (["images"], "has no folder masks, as 7 other sub-folders have: add it, or remove the sub-folder"),
    "masks of another name": (["images", "roi"], "has no folder masks, as 7 other sub-folders have"),
    "no images": (["masks"], "has no folder images, as 7 other sub-folders have"),
    "more raters": (
        ["images", "masks_0", "masks_1"],
        "has masks_0/ and masks_1/, but 7 of 8 sub-folders have masks/: give all of them the same folders of masks",
    ),
}


@pytest.mark.parametrize("kind", PATIENTS)
@pytest.mark.parametrize("split", ["", "train"])
def test_a_patient_without_images_or_masks_is_a_problem(kind, split, tmp_path):
    own, words = PATIENTS[kind]
    for patient in range(8):
        for name in own if patient == 3 else ("images", "masks"):
            tree(tmp_path / split / f"patient_{patient}", *(f"{name}/{key}.png" for key in "ab"))
    if split:
        tree(tmp_path / "test", *(f"t{k}/{name}/a.png" for k in range(2) for name in ("images", "masks")))
    report = check(config("folder"), tmp_path)
    (problem,) = data.find(config("folder"), tmp_path).problems
    assert report.problems == (problem,)
    assert problem.startswith(f"{tmp_path / split / 'patient_3'} {words}")
    assert not [suspicion for suspicion in report.suspicions if "not used" in suspicion]


def test_patients_may_have_folders_of_raters(tmp_path):
    for patient in range(6):
        tree(
            tmp_path / f"p{patient}",
            *paths("images/{}.png", "masks_0/{}.png"),
            *paths("images/{}.png", "masks_1/{}_gt.png"),
        )
    found = data.find(config("folder"), tmp_path)
    assert found.problems == ()
    assert len(found.records) == 36
    for record in found.records:
        assert [path.parent.name for path in record.annotations] == ["masks_0", "masks_1"]
        assert {path.parents[1].name for path in record.files} == {record.group}
    assert data.load(config("folder"), tmp_path).train.masks.channels == 2
    (tmp_path / "p2/masks_1/c_gt.png").unlink()
    (problem,) = data.find(config("folder"), tmp_path).problems
    assert problem == f"{tmp_path / 'p2/images/c.png'} has masks in 1 of 2 folders of raters: add the others"


def test_folders_of_an_image_each_may_have_folders_of_raters(tmp_path):
    for key in "abcdef":
        tree(tmp_path / f"{key}1", f"images/{key}.png", "masks_0/mask.png", "masks_1/label.png")
    found = data.find(config("folder"), tmp_path)
    assert found.problems == ()
    assert {len(record.annotations) for record in found.records} == {2}
    assert data.load(config("folder"), tmp_path).train.masks.channels == 2


def test_groups_of_the_table_count_where_folders_give_the_splits(tmp_path):
    for split in ("train", "test"):
        for grade in ("grade1", "grade2"):
            tree(tmp_path, *paths(f"{split}/images/{grade}/{{}}.png", f"{split}/masks/{grade}/{{}}.png", split[:2]))
    (problem,) = data.find(config("folder"), tmp_path).problems
    assert "groups are in both splits: grade1, grade2" in problem
    lines = [
        f"{grade}/{k},{split},{split}-{k}\n"
        for split in ("train", "test")
        for grade in ("grade1", "grade2")
        for k in split[:2]
    ]
    lines = [line for line in lines if "/t," not in line]
    for split in ("train", "test"):
        for grade in ("grade1", "grade2"):
            for kind in ("images", "masks"):
                (tmp_path / split / kind / grade / "t.png").unlink()
    (tmp_path / "split.csv").write_text("name,split,group\n" + "".join(lines))
    found = data.find(config("folder"), tmp_path)
    assert found.problems == ()
    assert {record.group for record in found.records} == {"train-r", "test-e"}
    (tmp_path / "split.csv").write_text("name,split,group\n" + "".join(lines).replace(",test,", ",train,"))
    assert "puts grade1/e into train, but its folder is test" in data.find(config("folder"), tmp_path).problems[0]


def test_sub_folders_of_patients_below_classes_become_groups(tmp_path):
    for place in ("benign/1", "benign/2", "malignant/1"):
        tree(tmp_path, *paths(f"images/{place}/{{}}.png", f"masks/{place}/{{}}.png", "ab"))
    found = data.find(config("folder"), tmp_path)
    assert {record.group for record in found.records} == {"benign/1", "benign/2", "malignant/1"}


def test_volumes_in_folders_of_patients_are_read_slice_by_slice(tmp_path):
    for patient in ("p1", "p2"):
        for visit in "ab":
            for kind in ("images", "masks"):
                (tmp_path / kind / patient).mkdir(parents=True, exist_ok=True)
                array = np.zeros((20, 24, 2), np.uint8)
                array[5:9, 5:9] = 1
                nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / kind / patient / f"{visit}.nii.gz")
    found = data.find(config("folder"), tmp_path)
    assert {record.name for record in found.records} == {
        f"{p}/{v}/00{k}" for p in ("p1", "p2") for v in "ab" for k in (0, 1)
    }
    assert {record.group for record in found.records} == {"p1", "p2"}


def test_unused_masks_are_reported_in_one_sentence(tmp_path):
    folder(tmp_path)
    for k in range(245):
        write_mask(tmp_path / "train/masks" / f"other-{k}.png")
    found = check(config("folder"), tmp_path)
    assert found.problems == ()
    (remark,) = (one for one in found.suspicions if "not used" in one)
    assert "244 more" in remark
    data.load(config("folder"), tmp_path)


def test_masks_with_two_affixes_for_the_same_images_are_refused(tmp_path):
    tree(tmp_path, *paths("images/{}.png", "masks/{}_mask.png"), *paths("images/{}.png", "masks/{}_gt.png"))
    with pytest.raises(DataError, match=r"masks with _(mask|gt) and others with _(mask|gt) for the same images"):
        data.find(config("folder"), tmp_path)


def test_an_image_without_a_mask_is_reported_where_masks_have_an_affix(tmp_path):
    tree(tmp_path, *paths("images/{}.png", "masks/{}_mask.png"))
    (tmp_path / "masks/c_mask.png").unlink()
    (problem,) = data.find(config("folder"), tmp_path).problems
    assert problem.startswith(f"{tmp_path / 'images/c.png'} has no mask")


def test_the_folders_of_the_medical_segmentation_decathlon_are_read(real_data):
    found = data.find(config("folder", channels=1), real_data / "hippocampus" / "Task04_Hippocampus")
    assert found.problems == ()
    assert len({record.group for record in found.records}) == 100
