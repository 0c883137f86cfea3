"""The stages of `diffseg auto`: what fits into the hours, in which order, and how the plan follows the time that trials take."""

import datetime
import math
import re
from dataclasses import replace

import pytest

from studies.auto.record import Record, Request
from studies.auto.stages import (
    EPOCH,
    NOTHING_PLANNED,
    SESSION,
    describe_stages,
    measure_session,
    measure_speed,
    next_stage,
    pretend,
    read_used,
)

SETTINGS = {
    "data.size": 64,
    "data.channels": 3,
    "data.fit": "resize",
    "network.width": 32,
    "diffusion.target": "x0",
    "inference.steps": 10,
    "inference.ensemble": 5,
}


def planned(hours=8.0, lanes=2, images=100, **changes):
    paces = {"e1": (0.4, 0.05), "e2": (0.5, 0.5), "small": (0.1, 0.1)}
    return Record(
        request=Request("mine", "/data/mine", hours, "iou", changes.pop("settings", {})),
        choices=[(SETTINGS, "they are known")],
        lanes=lanes,
        paces=paces,
        train_images=800,
        test_images=images,
        planning=60.0,
        most_steps=4000,
    )


def count_trials(stage):
    search = stage.parts[0].get("search")
    if search:
        return 1.5 * search["budget"] + 6
    return sum(len(part["experiments"]) * len(part["seeds"]) for part in stage.parts)


def unfold(record, factor=1.0, start=6.0, nnunet=2.0, failing=(), session=SESSION):
    """Return the record with all its stages, and their rows, if all but the start takes `factor` times what was timed.

    session: seconds of each stage in which no trial runs.
    """
    done, clock = {}, 0.0
    while (found := next_stage(record, done, nnunet)) is not None:
        for stage in found.stages[len(record.stages) :]:
            speed = measure_speed(record, done)
            starts = math.ceil(count_trials(stage) / record.lanes)
            took = (stage.seconds - starts * speed.start) / speed.factor * factor + starts * start
            clock += took
            row = {"status": "failed" if stage.name in failing else "complete", "experiment": "e2", "seconds": took}
            if stage.name in ("small", "planned"):
                step, image = record.paces["small" if stage.name == "small" else "e2"]
                steps = stage.parts[0]["all"]["training.steps"]
                own = {"train_seconds": factor * steps * step, "evaluate_seconds": factor * record.test_images * image}
                row |= own | {"seconds": start + sum(own.values()), "steps": steps, "test_images": record.test_images}
            busy = {**row, "experiment": "e1", "seconds": took}  # in which at least one trial of the stage runs
            done[stage.name] = [one | {"finished": EPOCH + datetime.timedelta(seconds=clock)} for one in (busy, row)]
        record = replace(found, elapsed=record.planning + session * len(found.stages) + clock)
    return record, done, clock


def test_many_hours_have_every_stage_in_order():
    record, *_ = unfold(planned(12.0))
    small, main, baselines, search, *_ = record.stages
    assert [stage.name for stage in record.stages[:4]] == ["small", "planned", "baselines", "search"]
    assert small.parts[0]["data"]["mine"]["data.size"] == 32
    assert small.parts[0]["data"]["mine"]["data.fit"] == "resize"
    assert main.parts[0]["all"]["training.steps"] == 4000  # no more, since a search is worth more
    assert [part["experiments"] for part in baselines.parts] == [["e2"], ["e1"]]
    assert baselines.parts[0]["all"]["diffusion.target"] == "epsilon"
    assert list(baselines.parts[1]["network"]) == ["nnunet"]
    assert not any(path.startswith("diffusion.") for path in baselines.parts[1]["all"])
    table = search.parts[0]["search"]
    assert (table["objective"], table["confirm"]) == (["iou"], "2x2")
    assert table["fidelities"] == [{"training.steps": 1000}]
    assert table["start"]["data.held_out"] == 0.125  # as many images as are tested on
    assert table["budget"] >= 10


@pytest.mark.parametrize(("factor", "start"), [(0.7, 3.0), (1.0, 6.0), (1.6, 6.0), (1.0, 30.0)])
@pytest.mark.parametrize("hours", [0.5, 1.0, 2.0, 8.0, 24.0])
@pytest.mark.parametrize("lanes", [1, 2, 8])
def test_all_stages_together_fit_into_the_hours(hours, lanes, factor, start):
    record, *_ = unfold(planned(hours, lanes), factor, start)
    assert record.elapsed <= 3600 * hours * 1.1
    assert "planned" in [stage.name for stage in record.stages]
    if hours <= 8:
        assert record.elapsed > 3600 * hours * 0.4  # they are made use of


@pytest.mark.parametrize("hours", [0.25, 0.5, 2.0])
def test_the_time_in_which_no_trial_runs_is_measured(hours):
    """Beside other work, Ray and the trials' processes take much longer to start."""
    record, done, _ = unfold(planned(hours), session=60.0)
    assert record.elapsed <= 3600 * hours * 1.15
    assert measure_session(record, done) == pytest.approx(60)
    assert measure_session(replace(record, elapsed=0.0), done) == SESSION  # after it was killed


def test_few_hours_leave_out_what_does_not_fit_and_say_so():
    record, *_ = unfold(planned(0.5))
    assert [stage.name for stage in record.stages][:3] == ["small", "planned", "baselines"]
    lines = describe_stages(record)
    assert [line.partition(":")[0] for line in lines] == ["small", "planned", "baselines", "search", "seeds"]
    assert "search: left out, since a search of 10 proposals and its confirmation would take" in lines[3]
    record, *_ = unfold(planned(0.06))
    assert [stage.name for stage in record.stages] == ["small"]
    (hours,) = re.findall(r"give --hours (\S+) or more", describe_stages(record)[1])
    assert 0.06 < float(hours) < 1
    enough, *_ = unfold(planned(float(hours)))
    assert "planned" in [stage.name for stage in enough.stages]


@pytest.mark.parametrize(
    ("settings", "first"),
    [
        ({}, "small"),
        ({"data.size": 32}, "planned"),
        ({"data.size": 16}, "planned"),
        ({"data.size": 32, "data.fit": "crop"}, "small"),
    ],
)
def test_small_trials_are_left_out_where_the_planned_ones_are_as_small(settings, first):
    record, *_ = unfold(planned(4.0, settings=settings))
    assert record.stages[0].name == first
    assert "planned" in [stage.name for stage in record.stages]


def test_nothing_is_built_upon_planned_trials_that_failed():
    record, *_ = unfold(planned(8.0), failing=("planned",))
    assert [stage.name for stage in record.stages] == ["small", "planned"]
    assert {reason for _, reason in record.skipped} == {NOTHING_PLANNED}


def test_nnunet_needs_time_for_its_own_steps():
    assert "without nnU-Net, since" in unfold(planned(1.0), nnunet=30.0)[0].stages[2].reason
    assert "nnU-Net" not in unfold(planned(1.0), nnunet=None)[0].stages[2].reason


def test_given_settings_are_counted_with():
    record, *_ = unfold(planned(8.0, settings={"training.steps": 50}))
    assert record.stages[1].reason.startswith("50 steps")
    record, *_ = unfold(planned(0.5, settings={"training.steps": 100_000}))
    assert "takes longer than the 0.5 h" in record.stages[1].reason
    record, *_ = unfold(planned(8.0, settings={"diffusion.target": "v"}))
    assert ("baselines", "diffusion.target is given, which is the paper's own") in record.skipped


def test_proposals_are_priced_by_the_images_that_are_held_out():
    few, many = (unfold(planned(8.0, images=images))[0] for images in (100, 2000))
    assert few.stages[3].parts[0]["search"]["budget"] > 10
    assert "search" in dict(many.skipped) or many.stages[3].parts[0]["search"]["start"]["data.held_out"] == 0.2


def test_the_time_of_sessions_and_of_the_plan_counts():
    record, done, clock = unfold(planned(1.0))
    assert read_used(record, done) <= 60 + SESSION * len(record.stages) + clock + 1
    assert measure_speed(record, {}).factor == 1.0
    assert measure_speed(record, done).factor == pytest.approx(1.0)
    assert set(pretend(record)) == {stage.name for stage in record.stages}
