"""The stages of `diffseg auto`: what fits into the hours, in which order, and how the plan follows the time that trials take."""

import datetime
from dataclasses import replace

import pytest

from studies.auto.record import Record, Request
from studies.auto.stages import EPOCH, SESSION, describe_stages, next_stage, pretend_rows, read_clock

SETTINGS = {
    "data.size": 64,
    "data.channels": 3,
    "data.fit": "resize",
    "network.width": 32,
    "diffusion.target": "x0",
    "inference.steps": 10,
    "inference.ensemble": 5,
}


def planned(hours=8.0, lanes=2, **changes):
    paces = {"e1": (0.4, 0.05), "e2": (0.5, 0.5), "small": (0.1, 0.1)}
    return Record(
        request=Request("mine", "/data/mine", hours, "iou", changes.pop("settings", {})),
        choices=[(SETTINGS, "they are known")],
        lanes=lanes,
        device="cpu",
        paces=paces,
        test_images=100,
        planning=60.0,
        most_steps=4000,
    )


def unfold(record, factor=1.0, nnunet=2.0):
    """Return the record with all its stages, each of which takes `factor` times what is expected by the timed steps."""
    clock = 0.0
    rows = []
    while (found := next_stage(record, rows, nnunet)) is not None:
        for stage in found.stages[len(record.stages) :]:
            clock += stage.work * factor
            rows.append({"seconds": stage.work * factor, "finished": EPOCH + datetime.timedelta(seconds=clock)})
        record = found
    return record, rows


def total(record, rows):
    return read_clock(record, rows).used


def test_many_hours_have_every_stage_in_order():
    record, _ = unfold(planned(12.0))
    small, main, baselines, search, *_ = record.stages
    assert [stage.name for stage in record.stages[:4]] == ["small", "planned", "baselines", "search"]
    assert small.parts[0]["data"]["mine"]["data.size"] == 32
    assert main.parts[0]["all"]["training.steps"] == 4000  # no more, since a search is worth more
    assert [part["experiments"] for part in baselines.parts] == [["e2"], ["e1"]]
    assert baselines.parts[0]["all"]["diffusion.target"] == "epsilon"
    assert list(baselines.parts[1]["network"]) == ["nnunet"]
    assert not any(path.startswith("diffusion.") for path in baselines.parts[1]["all"])
    table = search.parts[0]["search"]
    assert (table["objective"], table["confirm"]) == (["iou"], "2x2")
    assert table["fidelities"] == [{"training.steps": 1000}]
    assert table["budget"] >= 10


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.6])
@pytest.mark.parametrize("hours", [0.5, 1.0, 2.0, 8.0, 24.0])
@pytest.mark.parametrize("lanes", [1, 2, 8])
def test_all_stages_together_fit_into_the_hours(hours, lanes, factor):
    record, rows = unfold(planned(hours, lanes), factor)
    assert total(record, rows) <= 3600 * hours * 1.05
    assert "planned" in [stage.name for stage in record.stages]
    if hours <= 2:
        assert total(record, rows) > 3600 * hours * 0.4  # they are made use of


def test_few_hours_leave_out_what_does_not_fit_and_say_so():
    record, _ = unfold(planned(0.5))
    assert [stage.name for stage in record.stages][:3] == ["small", "planned", "baselines"]
    lines = describe_stages(record)
    assert [line.partition(":")[0] for line in lines] == ["small", "planned", "baselines", "search", "seeds"]
    assert "search: left out, since a search of 10 proposals and its confirmation would take" in lines[3]
    record, _ = unfold(planned(0.06))
    assert [stage.name for stage in record.stages] == ["small"]
    assert "give more --hours" in describe_stages(record)[1]


def test_nnunet_needs_time_for_its_own_steps():
    assert "without nnU-Net, since" in unfold(planned(1.0), nnunet=30.0)[0].stages[2].reason
    assert "nnU-Net" not in unfold(planned(1.0), nnunet=None)[0].stages[2].reason


def test_given_steps_are_counted_with():
    record, _ = unfold(planned(8.0, settings={"training.steps": 50}))
    assert record.stages[0].reason.startswith("50 steps")
    assert record.stages[0].work < 60


def test_the_time_of_sessions_and_of_the_plan_counts():
    record, rows = unfold(planned(1.0))
    trials = sum(row["seconds"] for row in rows)
    assert total(record, rows) == pytest.approx(60 + SESSION * len(record.stages) + trials)
    assert read_clock(replace(record, stages=[]), []).correction == 1.0
    assert len(pretend_rows(record)) == len(record.stages)
