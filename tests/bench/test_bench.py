"""`diffseg bench`: all ways of a benchmark compute the same, and the rows summarise them. Slow tests check the speed."""

import json
import math

import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from test_inference import trained

from analysis.speed import draw_speed
from diffseg.bench import benchmarks, harness, operations, peers
from diffseg.bench.harness import Benchmark, measure
from diffseg.training.state import initialise_network
from studies.commands.program import main
from studies.commands.tables.estimates import speed_table

CPU = torch.device("cpu")


@pytest.mark.slow
def test_rows_have_the_median_time_and_the_median_ratio_within_a_round(monkeypatch):
    now, taken = [0.0], {"first": iter([9.0, 9.0, 1.0, 2.0, 3.0]), "second": iter([9.0, 9.0, 2.0, 4.0, 9.0])}
    monkeypatch.setattr(harness.time, "perf_counter", lambda: now[0])
    monkeypatch.setitem(harness._PEAKS, ("cpu", "float32"), 100.0)
    monkeypatch.setattr(harness, "_count_flops", lambda call: 50)

    def call(way):
        now[0] += next(taken[way])  # the first two times are not counted

    ways = {way: lambda way=way: call(way) for way in taken}
    first, second = measure(Benchmark("step", "net", "8 px", ways, images=4, count_flops=True), 3, CPU)
    assert (first["seconds"], first["ratio"], first["images_per_second"], first["peak_share"]) == (2.0, 1.0, 2.0, 0.25)
    assert (second["seconds"], second["ratio"]) == (4.0, 2.0)


def test_memory_counts_the_tensors_that_the_call_allocates():
    before = [torch.ones(1000, 1000)]

    def call():
        before.pop()
        first = torch.ones(1000, 1000)
        second = first + 1
        del first
        before.append(second * 2)

    (row,) = measure(Benchmark("step", "net", "", {"way": call}), 1, CPU)
    assert 8_000_000 <= row["memory_bytes"] < 8_001_000  # two at a time; that from before is not counted


@pytest.mark.slow
def test_a_way_that_does_not_fit_into_memory_is_reported_and_the_others_are_measured(caplog):
    def large():
        torch.empty(2**60)

    ways = {"first": large, "second": lambda: torch.ones(8, 8) @ torch.ones(8, 8)}
    rows = measure(Benchmark("step", "", "", ways, images=4, count_flops=True), 3, CPU)
    assert caplog.messages == ["first does not fit into memory"]
    assert all(
        math.isnan(rows[0][name]) for name in ("seconds", "ratio", "images_per_second", "peak_share", "memory_bytes")
    )
    assert rows[1]["seconds"] > 0
    assert rows[1]["peak_share"] > 0
    assert math.isnan(rows[1]["ratio"])  # the first way was not measured
    columns = speed_table(rows).columns
    assert next(iter(columns[3].cells)) == "does not fit into memory"
    assert draw_speed(pd.DataFrame(rows)).data[["ratio", "low", "high"]].isna().all(axis=None)


def test_other_errors_of_a_way_are_raised():
    def broken():
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        measure(Benchmark("step", "", "", {"way": broken}), 3, CPU)


def test_a_benchmark_of_long_calls_makes_one_call():
    calls = []
    (row,) = measure(Benchmark("fingerprint", "", "", {"estimate": lambda: calls.append(1)}, once=True), 9, CPU)
    assert calls == [1]
    assert row["low"] == row["seconds"] == row["high"]
    assert math.isnan(row["images_per_second"])
    assert math.isnan(row["memory_bytes"])
    assert [next(iter(column.cells)) for column in speed_table([row]).columns[5:]] == ["", "", ""]
    assert math.isnan(row["peak_share"])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--part", "speed"], "--part speed is none of training, prediction, data, metrics, fingerprint, engine"),
        (["--network", "unet"], "--network unet is none of ensemdiff, segdiff, medsegdiff, ambdiff"),
        (
            ["--network", "ensemdiff", "--preset", "published/isic"],
            "--preset published/isic is none of published, debug, published/brats, debug/brats",
        ),
    ],
)
def test_unknown_parts_networks_and_presets_are_refused_in_one_sentence(words, sentence):
    result = CliRunner().invoke(main, ["bench", *words])
    assert result.exit_code != 0
    assert sentence in result.output


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        (None, [("segdiff", "debug/monuseg"), ("medsegdiff", "debug/isic")]),
        ("published/isic", [("medsegdiff", "published/isic")]),
        (
            "published",
            [
                ("segdiff", "published/monuseg"),
                ("segdiff", "published/vaihingen"),
                ("segdiff", "published/cityscapes"),
                ("medsegdiff", "published/isic"),
                ("medsegdiff", "published/isic-v1"),
            ],
        ),
    ],
)
def test_a_preset_selects_the_networks_that_have_it_and_a_kind_selects_all_its_presets(preset, expected):
    assert benchmarks.select_presets(["segdiff", "medsegdiff"], preset) == expected


@pytest.mark.parametrize(("size", "detail"), [(None, "224 px, batch 2"), (32, "32 px, batch 2")])
def test_batches_have_the_given_size_or_the_published_one(size, detail):
    (benchmark,) = benchmarks.benchmarks(["data"], [("segdiff", "published/monuseg")], size, [2], False, CPU)
    assert benchmark.detail == detail


@pytest.mark.parametrize("name", benchmarks.PRESETS)
def test_the_plain_transcription_computes_the_same(name):
    config = benchmarks.synthetic_config(name, benchmarks.PRESETS[name], 32, 2)
    network = initialise_network(config).eval()
    inputs = torch.randn(2, 1, 32, 32), torch.arange(2), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(network(*inputs), peers.published_form(network)(*inputs), atol=1e-5)


@pytest.mark.parametrize("name", ["segdiff", "medsegdiff"])
def test_the_published_procedure_and_the_faster_ones_predict_the_same(name, monkeypatch):
    monkeypatch.setattr(operations, "initialise_network", trained)  # its last layer is not zero
    leaves = {"inference.steps": 2, "inference.ensemble": 3, "data.test_images": 2}
    ways = operations.ensemble_prediction(
        benchmarks.synthetic_config(name, benchmarks.PRESETS[name], 32, 1).with_leaves(leaves), CPU, images=2
    ).ways
    assert list(ways) == ["published procedure", "in one batch", "image once", "bf16"]
    first, *others = (call() for call in ways.values())
    assert not torch.equal(first[0].mean, first[1].mean)
    for way, found in zip(list(ways)[1:], others, strict=True):
        for one, other in zip(found, first, strict=True):
            assert torch.allclose(one.mean, other.mean, atol=0.05 if way == "bf16" else 1e-4), way


@pytest.mark.slow
def test_bench_writes_a_table_and_a_chart(tmp_path):
    words = ["bench", "--network", "ensemdiff", "--size", "16", "--batch", "2", "--rounds", "3", "--json"]
    result = CliRunner().invoke(main, [*words, "--output", str(tmp_path / "bench.parquet")])
    assert result.exit_code == 0, result.output
    frame = pd.read_parquet(tmp_path / "bench.parquet")
    printed = json.loads(result.stdout, parse_constant=pytest.fail)  # no NaN, which JSON does not have
    assert len(frame) == len(printed)
    steps = frame[frame["subject"] == "training step"].set_index("way")
    assert set(steps.index) == {"diffseg", "plain transcription", "MONAI", "bf16"}
    subjects = {
        "training step",
        "network evaluation",
        "prediction",
        "batch",
        "IoU and Dice",
        "fingerprint",
        "orchestration",
        "reading a ledger",
    }
    assert set(frame["subject"]) == subjects
    (pause,) = frame.loc[frame["subject"] == "orchestration", "seconds"]
    assert 0 < pause < 60
    assert ((steps["peak_share"] > 0) & (steps["peak_share"] < 1)).all()
    assert (steps["memory_bytes"] > 1e5).all()
    assert (tmp_path / "bench.html").stat().st_size > 100_000
    assert draw_speed(frame).to_dict()["columns"] == 2
