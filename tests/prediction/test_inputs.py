"""The images that a prediction is given: files, folders with sub-folders, and the names of what is written of them."""

import pytest
from test_data import write_image
from test_predict import trained  # noqa: F401  a fixture
from volume_files import AFFINE, save

from diffseg.config import Config
from diffseg.errors import DataError
from diffseg.prediction.inputs import list_records
from diffseg.prediction.new_images import predict_files

FILES = ("a.png", "p1/a.png", "p1/images/a.png", "p2/images/a.png", "p2/images/b.tif", "p2/masks/a.png", "p2/masks_1/a.png",
         "p2/images/.b.png", "p2/__MACOSX/a.png", "p2/notes.txt", "labels/c.png", "q/a.png", "q/a.jpg", "n/images/s.png",
         "n/mask-0/s.png")  # fmt: skip

INPUTS = {  # what is given → the names of the images
    "one folder": (["p2"], ["images/a", "images/b"]),
    "its folder of images": (["p2/images"], ["a", "b"]),
    "folders in folders": (["p1", "p2"], ["p1/a", "p1/images/a", "p2/images/a", "p2/images/b"]),
    "folders of one name": (["p1/images", "p2/images"], ["p1/images/a", "p2/images/a", "p2/images/b"]),
    "a folder and its sub-folder": (["p1", "p1/images"], ["a", "images/a"]),
    "a folder and a file": (["p2/images", "labels/c.png"], ["a", "b", "c"]),
    "files": (["a.png", "p2/images/b.tif"], ["a", "b"]),
    "a folder of masks that is given, or is alone": (["labels", "p2/masks"], ["labels/c", "p2/masks/a"]),
    "masks of raters beside images": (["n"], ["images/s"]),
}
LAYOUTS = ("folder", "nnunet", "lidc")


def of(layout):
    return Config().with_leaves({"data.layout": layout, "data.channels": 1})


@pytest.fixture
def root(tmp_path):
    for path in FILES:
        write_image(tmp_path / path) if not path.endswith(".txt") else (tmp_path / path).write_text("?")
    return tmp_path


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_folders_are_read_with_their_sub_folders(kind, layout, root):
    given, names = INPUTS[kind]
    found = list_records(of(layout), [root / path for path in given], root / "out")
    assert sorted(record.name for group in found for record in group) == names


@pytest.mark.parametrize("given", [["q"], ["a.png", "p1/images/a.png"], ["p2/images", "a.png"]])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_whose_predictions_would_have_one_name_are_refused(given, layout, root):
    with pytest.raises(
        DataError, match=r"a\.\w+ and .*a\.\w+ have the same name, and so would their predictions: rename one"
    ):
        list_records(of(layout), [root / path for path in given], root / "out")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_earlier_predictions_below_the_input_are_no_input(layout, root, monkeypatch):
    write_image(root / "p1/pred/images/a_mask.png")
    monkeypatch.chdir(root)
    for output in (root / "p1/pred", root / "p1/../p1/pred"):
        found = list_records(of(layout), [root / "p1"], output)
        assert sorted(record.name for group in found for record in group) == ["a", "images/a"]
    for given in ("p1/pred", "p1/pred/images"):
        ((record,),) = list_records(of(layout), [root / given], root / "p1/pred")
        assert record.image.name == "a_mask.png"
    (root / "empty/pred").mkdir(parents=True)
    with pytest.raises(DataError, match="empty holds no image"):
        list_records(of(layout), [root / "empty"], root / "out")
    write_image(root / "empty/pred/a_mask.png")
    with pytest.raises(
        DataError, match=r"pred holds all images that are given: give other images, or another --output"
    ):
        list_records(of(layout), [root / "empty"], root / "empty/pred")


@pytest.mark.parametrize("layout", ["folder", "nnunet"])
def test_volumes_in_sub_folders_keep_their_folders(layout, tmp_path):
    import numpy as np

    for patient in "ab":
        save(tmp_path / patient / "v_0000.nii.gz", np.zeros((4, 5, 2), np.int16), AFFINE)
    found = list_records(of(layout), [tmp_path], tmp_path / "out")
    name = {"folder": "v_0000", "nnunet": "v"}[layout]
    assert [own[0].shared_name for own in found] == [f"a/{name}", f"b/{name}"]
    assert [record.name for record in found[0]] == [f"a/{name}/000", f"a/{name}/001"]


def test_the_folder_of_brats_stands_for_its_patients(tmp_path):
    from test_brats import volume

    for name in ("p1", "p2"):
        volume(tmp_path / "new", name)
    config = Config().with_leaves({"data.layout": "brats", "data.channels": 4})
    assert [own[0].shared_name for own in list_records(config, [tmp_path / "new"], tmp_path / "out")] == ["p1", "p2"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty has no t1"):
        list_records(config, [tmp_path / "empty"], tmp_path / "out")


def test_predictions_lie_in_the_folders_of_their_images(trained, root):  # noqa: F811
    config, work, scaling = trained(experiment="e1")
    written = predict_files(config, work, scaling, [root / "p1", root / "p2"], root / "out", "cpu")
    assert all(path.is_file() for path in written)
    masks = {str(path.relative_to(root / "out")) for path in written if path.name.endswith("_mask.png")}
    assert masks == {"p1/a_mask.png", "p1/images/a_mask.png", "p2/images/a_mask.png", "p2/images/b_mask.png"}
    with pytest.raises(DataError, match="have the same name"):
        predict_files(config, work, scaling, [root / "q"], root / "other", "cpu")
    assert not (root / "other").exists()
    again = predict_files(config, work, scaling, [root / "p1"], root / "p1", "cpu")
    assert {path.parent.name for path in again} == {"p1", "images"}
