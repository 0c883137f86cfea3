"""New cases whose channels lie in a file each, as nnU-Net names them."""

import pytest
from nnunet_files import describe, numbers, write_volumes
from test_predict import trained  # noqa: F401  a fixture
from volume_files import AFFINE, save

from diffseg.config import Config
from diffseg.errors import DataError
from diffseg.prediction.inputs import list_records
from diffseg.prediction.new_images import predict_files

CASES = {  # names of files, channels → the names of cases and the numbers of their files
    "one channel": (["a_0000", "b_0000"], 1, {"a": 1, "b": 1}),
    "two channels": (["a_0000", "a_0001", "b_0000", "b_0001"], 2, {"a": 2, "b": 2}),
    "all in one file": (["a", "b"], 2, {"a": 1, "b": 1}),
    "numbers of cases": (["a_0001", "a_0002"], 1, {"a_0001": 1, "a_0002": 1}),
    "numbers of cases from 0 on": (["a_0000", "a_0001"], 1, {"a_0000": 1, "a_0001": 1}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_channels_are_joined_by_their_numbers(case, ending, tmp_path):
    files, channels, wanted = CASES[case]
    for k, name in enumerate(files):
        save(tmp_path / f"{name}{ending}", numbers(k), AFFINE)
    config = Config().with_leaves({"data.layout": "nnunet", "data.channels": channels})
    found = list_records(config, [tmp_path], tmp_path / "out")
    assert {own[0].shared_name: len(own[0].files) for own in found} == wanted


def test_cases_of_one_name_in_two_folders_are_not_joined(tmp_path):
    for folder in "xy":
        save(tmp_path / folder / "a_0000.nii.gz", numbers(0), AFFINE)
    config = Config().with_leaves({"data.layout": "nnunet", "data.channels": 2})
    found = list_records(config, [tmp_path / "x", tmp_path / "y"], tmp_path / "out")
    assert [(own[0].shared_name, len(own[0].files)) for own in found] == [("x/a", 1), ("y/a", 1)]
    with pytest.raises(DataError, match="have the same name"):
        list_records(config, [tmp_path / folder / "a_0000.nii.gz" for folder in "xy"], tmp_path / "out")


def test_a_case_is_predicted_from_all_channels_or_refused(trained, tmp_path):  # noqa: F811
    describe(write_volumes(tmp_path / "root", channels=2), channel_names={"0": "T1", "1": "T2"})
    work, own, scaling = trained(
        tmp_path / "root", data__layout="nnunet", data__channels=2, data__foreground=[1, 2], experiment="e1"
    )
    new = write_volumes(tmp_path / "new", "n", channels=2) / "imagesTr"
    predict_files(work, own, scaling, [new], tmp_path / "out", "cpu")
    assert (tmp_path / "out" / "n_mask.nii.gz").exists()
    (new / "n_0001.nii.gz").unlink()
    with pytest.raises(
        DataError, match=r"n_0000.nii.gz has 1 channel, but the network was trained on 2: give .* such as n_0001"
    ):
        predict_files(work, own, scaling, [new], tmp_path / "out", "cpu")
