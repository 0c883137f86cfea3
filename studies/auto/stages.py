"""The stages of `diffseg auto`, each planned when the one before it has ended, by the hours that are left.

    small       E1 and E2 at 32 px: a first answer within minutes
    planned     E1 and E2 at the planned size
    baselines   the paper's ε-target and nnU-Net, where the hours allow
    search      for a better design, with the confirmation of its best by fresh seeds
    seeds       E1 and E2 again with fresh seeds, in what is left

How long a stage takes follows from the steps that were timed, corrected by how long the stages before it took.
"""

import datetime
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from studies.auto.design import PAPER, choose_network, choose_steps
from studies.auto.record import Record, Stage
from studies.search.stopping import measure_hours

SESSION = 20.0  # seconds in which Ray starts and ends, for each stage
START = 6.0  # seconds that a trial takes besides training and prediction: its process, and its data
ENDING = 0.04  # share of the hours that is kept for the report, and for what cannot be foreseen
SMALL_SIZE, SMALL_STEPS, LEAST_SMALL_STEPS = 32, 150, 20
SMALL_SHARE = 0.05  # of the hours that are left
PLANNED_SHARE = 0.45  # of the hours that are left: E1 and E2
LEAST_PLANNED_STEPS = 100
LEAST_PROPOSALS, MANY_PROPOSALS, MOST_PROPOSALS = 10, 24, 64
PROPOSAL_SHARE = 0.55  # of a whole trial's time that a proposal takes on average: many end early
CONFIRMED = (2, 2)  # configurations and fresh seeds
HELD_OUT, HELD_OUT_LEAST = 0.2, 30
NNUNET_EPOCHS = 10
LEAST_NNUNET = 200  # steps of nnU-Net, below which it has not learnt to mark anything
MOST_SEEDS = 4
NOTHING_PLANNED = "E1 and E2 at the planned size do not fit into the hours"
EPOCH = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)

NAMES = ("small", "planned", "baselines", "search", "seeds")

Rows = list[dict[str, Any]]  # of the ledger's `trials`, with status, config, seconds, finished


@dataclass(frozen=True)
class Clock:
    """The time that a study has taken so far, in seconds."""

    used: float
    correction: float  # how many times as long as by the timed steps its stages took


def read_clock(record: Record, rows: Rows) -> Clock:
    """Return the time so far: of planning, and of the hours during which at least one trial ran."""
    trials = 3600 * measure_hours(rows)
    work = sum(stage.work for stage in record.stages)
    correction = trials / work if work and trials else 1.0
    return Clock(record.planning + SESSION * len(record.stages) + trials, min(3.0, max(0.5, correction)))


def pretend_rows(record: Record) -> Rows:
    """Return rows as if every stage that has begun had taken as long as expected."""
    ends = itertools.accumulate(stage.seconds for stage in record.stages)
    return [
        {"seconds": stage.seconds, "finished": EPOCH + datetime.timedelta(seconds=end)}
        for stage, end in zip(record.stages, ends, strict=True)
    ]


def next_stage(record: Record, rows: Rows, nnunet_step: float | None) -> Record | None:
    """Return the record with the next stage, or with one that does not fit; None if all are decided.

    Args:
        record: What was planned and begun. All trials of its stages have ended.
        rows: Of the trials in the ledger.
        nnunet_step: Seconds that a step of nnU-Net takes, about; None if it cannot be used.
    """
    clock = read_clock(record, rows)
    left, correction = 3600 * record.request.hours * (1 - ENDING) - clock.used - SESSION, clock.correction
    plans: dict[str, Callable[[], Stage | str]] = {
        "small": lambda: _plan_small(record, left),
        "planned": lambda: _plan_main(record, left, correction),
        "baselines": lambda: _plan_baselines(record, left, correction, nnunet_step),
        "search": lambda: _plan_search(record, left, correction),
        "seeds": lambda: _plan_seeds(record, left, correction),
    }
    name = next((name for name in plans if name not in record.decided), None)
    if name is None:
        return None
    found = plans[name]()
    return record.skip(name, found) if isinstance(found, str) else record.begin(found)


def trial_seconds(record: Record, experiment: str, steps: int, sampling: float = 1.0) -> float:
    """Return how long a trial of the planned size is expected to take. sampling: evaluations, as a multiple of the planned ones."""
    step, image = record.paces[experiment]
    return START + steps * step + record.test_images * image * sampling


def _plan_small(record: Record, left: float) -> Stage:
    step, image = record.paces["small"]
    testing = START + record.test_images * image
    room = SMALL_SHARE * left / _rounds(2, record.lanes)
    steps = _given_steps(record, int(min(SMALL_STEPS, max(LEAST_SMALL_STEPS, (room - testing) / step))))
    settings = record.settings | choose_network(SMALL_SIZE).settings | choose_steps(steps)
    tables = _tables(record, settings | {"data.size": SMALL_SIZE}, ["e1", "e2"], "small")
    took = _rounds(2, record.lanes) * (testing + steps * step)
    return Stage("small", [tables], took, took, f"{steps} steps at {SMALL_SIZE} px: a first answer")


def _plan_main(record: Record, left: float, correction: float) -> Stage | str:
    share = PLANNED_SHARE * left / _rounds(2, record.lanes) / correction
    step, image = record.paces["e2"]
    fitting = int((share - START - record.test_images * image) / step)
    steps = _given_steps(record, min(fitting, record.most_steps))
    if steps < LEAST_PLANNED_STEPS:
        words = f"{record.request.hours:g} h allow {max(0, steps)} training steps, fewer than {LEAST_PLANNED_STEPS}"
        return f"{words}: give more --hours"
    took = _rounds(2, record.lanes) * _longest(record, steps)
    tables = _tables(record, record.settings | choose_steps(steps), ["e1", "e2"], "planned")
    return Stage("planned", [tables], took, took * correction, f"{steps} steps each")


def _plan_baselines(record: Record, left: float, correction: float, nnunet_step: float | None) -> Stage | str:
    if (steps := _planned_steps(record)) is None:
        return NOTHING_PLANNED
    sampling = PAPER["inference.steps"] / record.settings["inference.steps"]
    paper = trial_seconds(record, "e2", steps, sampling)
    if paper * correction > left:
        return f"the paper's ε-target would take {_of_left(paper * correction, left)}"
    shared = record.settings | choose_steps(steps)
    plain = {path: value for path, value in shared.items() if not path.startswith("diffusion.")}
    parts, reason = [_tables(record, plain | PAPER, ["e2"], "paper")], f"the paper's ε-target, {steps} steps"
    iterations = 0
    if nnunet_step is not None:
        room = max(paper, left / correction / 4) if record.lanes > 1 else min(paper, left / correction - paper)
        count = int((min(left / correction, room) - START) / nnunet_step)
        iterations = count // NNUNET_EPOCHS if count >= LEAST_NNUNET else 0
        found = (
            f"nnU-Net, {NNUNET_EPOCHS * iterations} of its own steps"
            if iterations
            else (f"without nnU-Net, since {max(0, count)} of its steps fit, fewer than {LEAST_NNUNET}")
        )
        reason += f"; {found}"
    took = [paper]
    if iterations and nnunet_step is not None:
        tables = _tables(record, plain, ["e1"], "planned")
        tables["network"] = {"nnunet": {"network.epochs": NNUNET_EPOCHS, "network.iterations": iterations}}
        parts.append(tables)
        took.append(START + NNUNET_EPOCHS * iterations * nnunet_step)
    together = max(took) if record.lanes > 1 else sum(took)
    return Stage("baselines", parts, together, together * correction, reason)


def _plan_search(record: Record, left: float, correction: float) -> Stage | str:
    if (steps := _planned_steps(record)) is None:
        return NOTHING_PLANNED
    whole, (best, seeds) = trial_seconds(record, "e2", steps), CONFIRMED
    confirmation = _rounds((best + 1) * seeds, record.lanes) * whole
    proposal = PROPOSAL_SHARE * whole / record.lanes
    budget = min(MOST_PROPOSALS, int((left / correction - confirmation) / proposal))
    if budget < LEAST_PROPOSALS:
        needed = (LEAST_PROPOSALS * proposal + confirmation) * correction
        return f"a search of {LEAST_PROPOSALS} proposals and its confirmation would take {_of_left(needed, left)}"
    search = {
        "space": "everything" if budget >= MANY_PROPOSALS else "target",
        "budget": budget,
        "objective": [record.request.metric],
        "confirm": f"{best}x{seeds}",
        "fidelities": [{"training.steps": max(1, steps // 4)}],
        "stop": {"hours": round((left - confirmation * correction) / 3600, 4)},
        "start": {"data.held_out": HELD_OUT, "data.held_out_least": HELD_OUT_LEAST},
    }
    settings = record.settings | choose_steps(steps) | {"training.evaluations": [0.5]}
    tables = _tables(record, settings, [], None) | {"search": search}
    took = budget * proposal + confirmation
    reason = f"{budget} proposals, and the best {best} again with {seeds} fresh seeds"
    return Stage("search", [tables], took, took * correction, reason)


def _plan_seeds(record: Record, left: float, correction: float) -> Stage | str:
    if (steps := _planned_steps(record)) is None:
        return NOTHING_PLANNED
    whole = _longest(record, steps)
    rounds = int(left / correction / whole)  # that fit, one after the other
    seeds = min(MOST_SEEDS, rounds * record.lanes // 2)
    if seeds < 1:
        return f"a second seed of E1 and E2 would take {_of_left(_rounds(2, record.lanes) * whole * correction, left)}"
    tables = _tables(record, record.settings | choose_steps(steps), ["e1", "e2"], "planned")
    tables["seeds"] = list(range(1, seeds + 1))
    took = _rounds(2 * seeds, record.lanes) * whole
    return Stage("seeds", [tables], took, took * correction, f"{seeds} fresh seed{'s' * (seeds > 1)} of E1 and E2")


def _planned_steps(record: Record) -> int | None:
    """Return the steps of the planned trials; None if they do not fit."""
    found = next((stage for stage in record.stages if stage.name == "planned"), None)
    return None if found is None else _given_steps(record, found.parts[0]["all"]["training.steps"])


def _given_steps(record: Record, steps: int) -> int:
    """Return the steps that the command line gives in place of the planned ones, which it overrides."""
    return int(record.request.settings.get("training.steps", steps))


def _longest(record: Record, steps: int) -> float:
    """Return how long the longer one of E1 and E2 takes."""
    return max(trial_seconds(record, name, steps) for name in ("e1", "e2"))


def _tables(record: Record, settings: dict[str, Any], experiments: list[str], variant: str | None) -> dict[str, Any]:
    """Return the tables of a study file with these settings."""
    own = {path: value for path, value in settings.items() if path.startswith("network.")}
    of_data = {path: value for path, value in settings.items() if path.startswith("data.") and path != "data.name"}
    shared = {path: value for path, value in settings.items() if path not in own and path not in of_data}
    tables: dict[str, Any] = {
        "seeds": [0],
        "experiments": experiments,
        "all": shared,
        "network": {"ensemdiff": own},
        "data": {record.request.data: of_data},
    }
    return tables | ({"variant": {variant: {}}} if variant else {})


def _of_left(seconds: float, left: float) -> str:
    """Return a time that does not fit, and what is left, in words."""
    return f"{seconds / 60:.0f} min, and {max(0.0, left) / 60:.0f} are left"


def _rounds(trials: int, lanes: int) -> int:
    """Return how many trials run one after the other."""
    return math.ceil(trials / lanes)


def describe_stages(record: Record) -> list[str]:
    """Return a line for each stage that was decided, in their order."""
    begun = {stage.name: f"{stage.reason} (about {max(1, round(stage.seconds / 60))} min)" for stage in record.stages}
    left_out = {name: f"left out, since {reason}" for name, reason in record.skipped}
    return [f"{name}: {words}" for name in NAMES for words in [(begun | left_out).get(name)] if words]
