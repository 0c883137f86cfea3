"""`dataset.json`: what follows from it, and the sentence for each way in which it can be wrong."""

import json

import pytest
from fuzzing import replace_at
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunet_files import describe, write_decathlon
from volume_files import sentence

from diffseg.config import Config
from diffseg.data.dataset_json import read_dataset_json
from diffseg.errors import DataError

FOUND = {  # entries that differ → settings that follow, besides data.channels
    "labels": ({}, {"data.classes": {"anterior": [1], "posterior": [2]}}),
    "one label": ({"labels": {"background": 0, "tumour": 1}}, {"data.classes": {"tumour": [1]}}),
    "ignored pixels": (
        {"labels": {"background": 0, "tumour": 1, "ignore": 2}},
        {"data.classes": {"tumour": [1]}, "data.ignore": [2]},
    ),
    "regions": (
        {"labels": {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}, "regions_class_order": [1, 2]},
        {"data.classes": {"whole": [1, 2], "core": [2]}, "data.regions": True, "data.ignore": [3]},
    ),
    "values that no other class has": (
        {"labels": {"background": 0, "whole": [1, 2], "core": [3]}},
        {"data.classes": {"whole": [1, 2], "core": [3]}},
    ),
    "numbers by text": (
        {"labels": {"0": "Background", "1": "edema", "2": "core", "3": "core"}},
        {"data.classes": {"edema": [1], "core": [2, 3]}},
    ),
    "names that a class cannot have": (
        {"labels": {"background": 0, "kidney/tumour (left)": 1, "_b": 2, "Ödem": 3}},
        {"data.classes": {"kidney-tumour -left-": [1], "b": [2], "Ödem": [3]}},
    ),
}


@pytest.mark.parametrize("case", FOUND)
def test_settings_follow(case, tmp_path):
    changed, wanted = FOUND[case]
    describe(tmp_path, **changed)
    assert read_dataset_json(tmp_path).settings() == {"data.channels": 1, **wanted}
    assert Config().with_leaves(wanted).data.classes


def test_the_channels_are_those_of_either_format(tmp_path):
    describe(tmp_path / "v2", channel_names={"1": "T2", "0": "T1"})
    assert read_dataset_json(tmp_path / "v2").channels == ("T1", "T2")
    assert read_dataset_json(write_decathlon(tmp_path / "msd", channels=4)).settings()["data.channels"] == 4


BROKEN = {  # entries that differ → words of the sentence
    "no labels": ({"labels": None}, 'has no table "labels"'),
    "labels in a list": ({"labels": ["a", "b"]}, 'has no table "labels"'),
    "background alone": ({"labels": {"background": 0}}, "no label besides the background"),
    "background alone, by number": ({"labels": {"0": "background"}}, "no label besides the background"),
    "a label in words": (
        {"labels": {"background": 0, "a": "one"}},
        "gives the label 'a' \"one\": allowed are whole numbers",
    ),
    "a truth value": ({"labels": {"background": 0, "a": True}}, "gives the label 'a' true"),
    "a negative label": ({"labels": {"background": 0, "a": -1}}, "gives the label 'a' -1"),
    "a label that is background": (
        {"labels": {"background": 0, "a": [0, 1]}},
        "the value 0, which is that of the background",
    ),
    "a class of the value 0": (
        {"labels": {"liver": 0, "tumour": 1, "background": 2}},
        "gives the background the value 2: it is 0",
    ),
    "a class of the value 0 besides the background": (
        {"labels": {"background": 0, "tumour": 0, "organ": [1, 2]}},
        "gives the label 'tumour' the value 0, which is that of the background",
    ),
    "a class of the value 0 without a background": (
        {"labels": {"liver": 0, "tumour": 1}},
        "gives the label 'liver' the value 0, which is that of the background: call it so",
    ),
    "another background, by number": (
        {"labels": {"0": "liver", "1": "background", "2": "tumour"}},
        "gives the background the value 1: it is 0",
    ),
    "two labels of one value": (
        {"labels": {"background": 0, "a": 1, "b": 1, "c": 2}},
        "gives the labels 'a' and 'b' the value 1: correct one of them, or give regions_class_order",
    ),
    "two labels of one value, by number": (
        {"labels": {"0": "background", "1": "a", "01": "b"}},
        "gives the labels 'a' and 'b' the value 1",
    ),
    "a label beyond 32 bits": (
        {"labels": {"background": 0, "a": 99999999999}},
        "gives the label 'a' 99999999999: allowed are whole numbers up to 2147483647",
    ),
    "an order in words": (
        {"regions_class_order": ["x", None]},
        'has the regions_class_order ["x", null]: it is a list of whole numbers',
    ),
    "a file of two cases": (
        {"dataset": {case: {"images": ["a.png"], "label": f"{case}-label.png"} for case in ("a", "b")}},
        "lists a.png in two cases: give each case files of its own",
    ),
    "a file listed twice": (
        {"training": [{"image": "imagesTr/a.nii", "label": "labelsTr/a.nii"}] * 2},
        "lists a.nii in two cases",
    ),
    "a label that is ignored": (
        {"labels": {"background": 0, "a": [1, 2], "ignore": 2}},
        "the value 2, which is that of 'ignore'",
    ),
    "two numbers to ignore": ({"labels": {"background": 0, "a": 1, "ignore": [2, 3]}}, "it is one number"),
    "names of numbers": ({"labels": {"0": "background", "1": 7}}, "gives label 1 the name 7"),
    "no name": ({"labels": {"background": 0, "///": 1}}, "is no name of a class"),
    "a taken name": ({"labels": {"background": 0, "all": 1}}, "is no name of a class"),
    "names alike": ({"labels": {"background": 0, "a/b": 1, "a(b": 2}}, "'a/b' and 'a(b', which look alike"),
    "300 labels": ({"labels": {f"a{k}": k + 1 for k in range(300)}}, "more than 254 labels"),
    "an order of other regions": (
        {"regions_class_order": [1, 2, 3]},
        "has 2 regions, but its regions_class_order has 3",
    ),
    "no channels": ({"channel_names": None}, 'has no table "channel_names" or "modality"'),
    "channels in a list": ({"channel_names": ["T1"]}, 'has no table "channel_names" or "modality"'),
    "channels from 1 on": ({"channel_names": {"1": "T1"}}, "numbers its channels 1: they are 0, 1 and so on"),
    "an unknown ending": ({"file_ending": ".mha"}, 'has the file_ending ".mha": .png, .jpg'),
    "a number in words": ({"numTraining": "4"}, 'has numTraining "4": it is the number'),
    "cases in words": ({"training": ["a"]}, 'lists "a" in training: a case is'),
    "a case of nothing": ({"dataset": {"a": {"images": []}}}, "lists case a in another way"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_fault_is_refused_in_one_sentence(case, tmp_path):
    changed, words = BROKEN[case]
    describe(tmp_path, **changed)
    with pytest.raises(DataError) as error:
        read_dataset_json(tmp_path)
    assert words in str(error.value)
    assert str(error.value).startswith(str(tmp_path / "dataset.json"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'"labels"'])
def test_a_file_that_is_no_table_is_refused(content, tmp_path):
    (tmp_path / "dataset.json").write_bytes(content)
    with pytest.raises(DataError, match=r"dataset.json (is no JSON|holds no table)"):
        read_dataset_json(tmp_path)


def test_a_key_that_is_given_twice_is_refused(tmp_path):
    (tmp_path / "dataset.json").write_text('{"labels": {"background": 0, "a": 1, "a": 2}}')
    with pytest.raises(DataError, match=r'dataset.json gives "a" twice'):
        read_dataset_json(tmp_path)


def test_a_folder_without_the_file_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"has no dataset.json: a data set of nnU-Net"):
        read_dataset_json(tmp_path)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 300)
    | st.floats(allow_nan=False)
    | st.sampled_from(["", "a", "1", ".png"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["0", "1", "a", "images"]), inner, max_size=3)
    ),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["v2", "cases", "decathlon"]), st.lists(st.integers(0, 5), max_size=4), JSON)
def test_anything_is_read_or_refused_in_one_sentence(tmp_path_factory, kind, path, value):
    root = tmp_path_factory.mktemp("fuzzed")
    pairs = [{"image": "imagesTr/a.nii", "label": "labelsTr/a.nii"}]
    tree = {
        "v2": {
            "labels": {"background": 0, "a": [1, 2], "ignore": 3},
            "channel_names": {"0": "T1"},
            "file_ending": ".png",
        },
        "cases": {
            "labels": {"a": 1},
            "channel_names": {"0": ""},
            "dataset": {"a": {"images": ["a.png"], "label": "b.png"}},
        },
        "decathlon": {
            "labels": {"0": "background", "1": "a"},
            "modality": {"0": "MRI"},
            "training": pairs,
            "numTraining": 1,
        },
    }[kind]
    (root / "dataset.json").write_text(json.dumps(replace_at(tree, path, value)))
    said = sentence(lambda: Config().with_leaves(read_dataset_json(root).settings()), root / "dataset.json")
    assert said.startswith(str(root / "dataset.json"))
