"""Bad files of clusters: each is refused in one sentence, in bounded time and memory."""

import os
import re

import pytest
import yaml
from fuzzing import replace_at
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_cluster import AWS, FILES, filled

from diffseg.errors import UserError
from studies.engine import clusterfile
from studies.engine.cluster_check import check

JOB = "kind: RayJob\nspec:\n  entrypoint: diffseg run paper\n  rayClusterSpec:\n    headGroupSpec: {}\n"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGED = "a: &a {k: v, l: w}\n" + "".join(
    f"{new}: &{new} {{<<: [{', '.join([f'*{old}'] * 9)}]}}\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
REFUSED = {
    "aliases": (BOMB + JOB, "more than 20,000 values once its aliases are expanded"),
    "merge keys": (MERGED + JOB, "more than 20,000 values once its aliases are expanded"),
    "many values": ("a: [" + "x,\n" * 30_000 + "]", "more than 20,000 values"),
    "a circle": ("a: &a [*a]\nkind: RayJob", "an alias to a value that contains it"),
    "deep lists": ("a: " + "[" * 5000, "is not YAML|deeper than 50 levels"),
    "deeper lists": ("a: " + "[" * 60 + "]" * 60, "deeper than 50 levels"),
    "deep blocks": ("- " * 2000 + "a", "deeper than 50 levels|exceeded maximum nesting depth"),
    "deep keys": ("? " * 2000 + "a", "deeper than 50 levels|is not YAML"),
    "a long line": ("a: " + "mount " * 20_000, "has a line of 120,00. characters"),
    "code": ("!!python/object/apply:os.system ['true']", "is not YAML: could not determine a constructor"),
    "a tag": ("a: !mine 1", "is not YAML: could not determine a constructor"),
    "a date": ("a: 2001-99-99", r"holds a value that cannot be read \(month must be"),
    "digits": ("a: " + "9" * 5000, "holds a value that cannot be read"),
    "an unhashable key": ("? [a]\n: 1", "is not YAML: .*unhashable|found unacceptable key|describes no cluster"),
    "no alias": ("a: *b", "is not YAML: .*undefined alias"),
    "tabs": ("a:\n\t- b", "is not YAML"),
    "several texts": ("a\n---\nb", "describes no cluster"),
    "a number": ("3", "describes no cluster"),
    "nothing": ("---\n---\n", "describes no cluster"),
    "control characters": ("a: \x07", "is not YAML"),
}  # fmt: skip
NAMED = {
    "a job is text": ("kind: RayJob\nspec: mine", "spec is 'mine', but a mapping belongs there"),
    "a job is a list": ("kind: RayJob\nspec: [1]", "spec is a list, but a mapping belongs there"),
    "a cluster is text": ("kind: RayJob\nspec: {rayClusterSpec: mine}", "spec.rayClusterSpec is 'mine'"),
    "a head is text": ("kind: RayJob\nspec: {rayClusterSpec: {headGroupSpec: mine}}", "headGroupSpec is 'mine'"),
    "parameters are a list": (
        "kind: RayCluster\nspec: {headGroupSpec: {rayStartParams: [a]}}", "spec.headGroupSpec.rayStartParams is a list"),
    "a parameter is a list": (
        "kind: RayCluster\nspec: {headGroupSpec: {rayStartParams: {num-cpus: [0]}}}", "rayStartParams.num-cpus is a list"),
    "workers are a mapping": (
        "kind: RayCluster\nspec: {headGroupSpec: {}, workerGroupSpecs: {a: 1}}", "workerGroupSpecs is a mapping, but a list"),
    "a worker is text": (
        "kind: RayCluster\nspec: {headGroupSpec: {}, workerGroupSpecs: [a]}", "spec.workerGroupSpecs.0 is 'a', but a mapping"),
    "options are text": (
        "kind: RayCluster\nspec: {headGroupSpec: {}, authOptions: token}", "spec.authOptions is 'token', but a mapping"),
    "a mode is a list": (
        "kind: RayCluster\nspec: {headGroupSpec: {}, authOptions: {mode: [token]}}", "spec.authOptions.mode is a list, but text"),
    "an entrypoint is a list": ("kind: RayJob\nspec: {entrypoint: [diffseg]}", "spec.entrypoint is a list, but text"),
    "a version is a list": (
        "kind: RayCluster\nspec: {rayVersion: [2], headGroupSpec: {}}", "spec.rayVersion is a list"),
    "nothing but a kind": ("kind: RayJob", "spec.rayClusterSpec has no headGroupSpec"),
    "an empty job": ("kind: RayJob\nspec:", "spec.rayClusterSpec has no headGroupSpec"),
    "a second document": (f"a: 1\n---\n{JOB}", "the head has no resource"),
    "a provider is text": ("provider: aws", "provider is 'aws', but a mapping belongs there"),
    "a provider is nothing": ("provider:", "provider is nothing, but a mapping belongs there"),
    "types are a list": ("provider: {type: aws}\navailable_node_types: [a]", "available_node_types is a list, but a mapping"),
    "a type is text": (
        "provider: {type: aws}\navailable_node_types: {head: a}", "available_node_types.head is 'a', but a mapping"),
    "a node is a list": (
        "provider: {type: aws}\navailable_node_types: {head: {node_config: [a]}}", "head.node_config is a list, but a mapping"),
    "workers are text": (
        "provider: {type: aws}\navailable_node_types: {head: {max_workers: many}}", "max_workers is 'many', but a whole number"),
    "resources are a list": (
        "provider: {type: aws}\navailable_node_types: {head: {resources: [CPU]}}", "head.resources is a list, but a mapping"),
    "commands are text": ("provider: {type: aws}\nsetup_commands: pip", "setup_commands is 'pip', but a list belongs there"),
    "a command is a mapping": ("provider: {type: aws}\nsetup_commands: [{a: 1}]", "setup_commands.0 is a mapping, but text"),
    "a name is a list": ("provider: {type: aws}\ncluster_name: [a]", "cluster_name is a list, but text belongs there"),
    "a date": ("provider: {type: aws}\ncluster_name: 2020-01-01", "cluster_name is '2020-01-01', but text"),
    "a type of nobody": ("provider: {type: mine}\ncluster_name: a", "provider|Ray"),
    "keys of all kinds": ("provider: {type: aws, 3: 4, null: 5}\n2020-01-01: 6", "Ray cannot prepare it|Additional properties"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_describes_no_cluster_is_refused_in_one_sentence(case, tmp_path):
    text, message = REFUSED[case]
    (tmp_path / "file.yaml").write_text(text)
    with pytest.raises(UserError, match=message) as error:
        check(tmp_path / "file.yaml")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 800


@pytest.mark.parametrize("case", NAMED)
def test_a_field_of_another_form_is_named(case, tmp_path):
    text, message = NAMED[case]
    (tmp_path / "file.yaml").write_text(text)
    found = check(tmp_path / "file.yaml")
    assert any(re.search(message, problem) for problem in found), found
    assert not any("\n" in problem for problem in found)


@pytest.mark.parametrize("kind", ["folder", "pipe", "huge", "bytes", "none"])
def test_a_file_that_is_no_text_is_refused_in_one_sentence(kind, tmp_path):
    path = tmp_path / "file.yaml"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "huge":
        with path.open("wb") as file:
            file.truncate(1 << 30)
    elif kind == "bytes":
        path.write_bytes(b"a: \xff\xfe")
    with pytest.raises(UserError, match=r"is a folder|is a pipe|larger than|is not UTF-8|no such file"):
        check(path)


@pytest.mark.parametrize("kind", [kind for kind in FILES if kind != "slurm"])
def test_shipped_files_are_far_from_the_bounds(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(clusterfile, "MOST_VALUES", clusterfile.MOST_VALUES // 20)
    monkeypatch.setattr(clusterfile, "DEEPEST", clusterfile.DEEPEST // 3)
    assert clusterfile.parse_documents(tmp_path / "file", filled(FILES[kind]))


WORDS = st.sampled_from(
    ["kind", "RayJob", "RayCluster", "spec", "rayClusterSpec", "headGroupSpec", "workerGroupSpecs", "rayStartParams", "provider",
     "type", "aws", "gcp", "local", "available_node_types", "head", "node_config", "resources", "max_workers", "setup_commands",
     "cluster_name", "auth", "head_node_type", "authOptions", "mode", "token", "scheduling", "driver", "CPU", "entrypoint"]
)  # fmt: skip
SCALARS = (
    WORDS
    | st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.dates()
    | st.binary(max_size=4)
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.integers(0, 3), inner, max_size=4),
    max_leaves=12,
)
BASES = [tree for kind in ("kubernetes", "gcp", "local", "aws") for tree in yaml.safe_load_all(filled(FILES[kind]))]


CHANGED = st.builds(replace_at, st.sampled_from(BASES), st.lists(st.integers(0, 20), max_size=6), TREES)
CONTENT = (
    (CHANGED | st.dictionaries(WORDS, TREES, max_size=4)).map(lambda tree: yaml.safe_dump(tree).encode())
    | st.lists(st.sampled_from(AWS.splitlines() + FILES["kubernetes"].splitlines()), max_size=30).map("\n".join).map(str.encode)
    | st.text(alphabet="{}[]&*:-<!>|#'\"\n ab?,%@", max_size=60).map(str.encode)
    | st.binary(max_size=60)
)  # fmt: skip


def check_raises_only_user_errors(content, folder):
    path = folder / "file.yaml"
    path.write_bytes(content)
    messages = []
    try:
        messages = check(path)
    except UserError as error:
        messages = [str(error)]
    assert not any("\n" in one for one in messages)


FUZZ = {"suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]}


@settings(max_examples=60, **FUZZ)
@given(CONTENT)
def test_no_file_ends_in_a_traceback(tmp_path, content):
    check_raises_only_user_errors(content, tmp_path)


@pytest.mark.slow
@settings(max_examples=3000, **FUZZ)
@given(CONTENT)
def test_no_file_of_many_ends_in_a_traceback(tmp_path, content):
    check_raises_only_user_errors(content, tmp_path)
