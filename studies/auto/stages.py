"""The stages of `diffseg auto`, each planned when the one before it has ended, by the hours that are left.

    small       E1 and E2 at 32 px, a study of their own: a first answer within minutes, where the planned size is larger
    planned     E1 and E2 at the planned size
    baselines   the paper's ε-target and nnU-Net, where the hours allow
    search      for a better design, with the confirmation of its best by fresh seeds
    seeds       E1 and E2 again with fresh seeds, in what is left

How long a stage takes follows from the steps that were timed, corrected by what the trials before it took.
"""

import datetime
import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

from studies.auto.design import PAPER, choose_network, choose_steps
from studies.auto.record import Record, Stage
from studies.search.stopping import measure_hours

NAMES = ("small", "planned", "baselines", "search", "seeds")
SESSION = (
    20.0  # seconds of a stage in which no trial runs, since Ray or a trial's process starts; until they are measured
)
LONGEST_SESSION = 300.0  # seconds
ENDING = 0.04  # share of the hours that is kept for the report, and for what cannot be foreseen
SMALL_SIZE, SMALL_STEPS, LEAST_SMALL_STEPS = 32, 150, 20
SMALL_SHARE = 0.05  # of the hours that are left
PLANNED_SHARE = 0.45  # of the hours that are left: E1 and E2
LEAST_PLANNED_STEPS = 100
LEAST_PROPOSALS, MANY_PROPOSALS, MOST_PROPOSALS = 10, 24, 200
FIDELITY = 4  # a proposal is first tried with this fraction of the steps
TRAINED_WHOLLY = 0.5  # share of the proposals, about, that are then trained to the end
CONFIRMED = (2, 2)  # configurations and fresh seeds
HELD_OUT, HELD_OUT_LEAST = 0.2, 30
NNUNET_EPOCHS, LEAST_NNUNET = 10, 200  # LEAST_NNUNET: of its steps, before which it marks nothing
NNUNET_SHARE = 4  # times as long as the paper's trial, at most
MOST_SEEDS = 4
NOTHING_PLANNED = "no E2 of the planned size is complete"
EPOCH = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)

Rows = list[dict[str, Any]]  # of the ledger's `trials`, with COLUMNS
COLUMNS = (
    "status", "experiment", "network", "seconds", "train_seconds", "evaluate_seconds", "steps", "test_images", "finished",
)  # fmt: skip


@dataclass(frozen=True)
class Speed:
    """How long trials take, compared with the steps that were timed."""

    start: float = 6.0  # seconds of a trial besides training and prediction: its process, and its data
    factor: float = 1.0  # of training and prediction, times as long as timed


def measure_speed(record: Record, done: dict[str, Rows]) -> Speed:
    """Return the speed of the complete trials of E2 of the planned size or, before there are any, of the small one."""
    for name, pace in (("planned", "e2"), ("small", "small")):
        rows = [row for row in done.get(name, ()) if row["status"] == "complete" and row["experiment"] == "e2"]
        rows = [row for row in rows if row.get("train_seconds")]
        step, image = record.paces[pace]
        expected = sum(row["steps"] * step + row["test_images"] * image for row in rows)
        if rows and expected:
            computed = [row["train_seconds"] + row["evaluate_seconds"] for row in rows]
            start = median(row["seconds"] - own for row, own in zip(rows, computed, strict=True))
            return Speed(min(60.0, max(1.0, start)), min(4.0, max(0.25, sum(computed) / expected)))
    return Speed()


def read_used(record: Record, done: dict[str, Rows]) -> float:
    """Return the seconds so far.

    If the command was killed, not all of them are known, but for those of planning and those during which at least one trial ran.
    """
    return max(record.elapsed, record.planning + SESSION * len(record.stages) + _measure_busy(done))


def measure_session(record: Record, done: dict[str, Rows]) -> float:
    """Return the seconds of a stage in which no trial ran, the mean of those so far."""
    idle = record.elapsed - record.planning - _measure_busy(done)
    return min(LONGEST_SESSION, max(SESSION, idle / len(record.stages))) if record.stages else SESSION


def _measure_busy(done: dict[str, Rows]) -> float:
    """Return the seconds during which at least one trial ran."""
    return 3600 * measure_hours([row for own in done.values() for row in own])


def pretend(record: Record) -> dict[str, Rows]:
    """Return rows as if every stage that has begun had taken as long as expected."""
    found, end = dict[str, Rows](), 0.0
    for stage in record.stages:
        end += stage.seconds
        finished = EPOCH + datetime.timedelta(seconds=end)
        found[stage.name] = [{"status": "complete", "experiment": "e2", "seconds": stage.seconds, "finished": finished}]
    return found


def next_stage(record: Record, done: dict[str, Rows], nnunet_step: float | None) -> Record | None:
    """Return the record with the next stage, or with one that does not fit; None if all are decided.

    Args:
        record: What was planned and begun. All trials of its stages have ended.
        done: The rows of the trials, by their stage.
        nnunet_step: Seconds that a step of nnU-Net takes, about; None if it cannot be used.
    """
    planner = _Planner(record, done, nnunet_step)
    plans: dict[str, Callable[[], Stage | str]] = {
        "small": planner.plan_small,
        "planned": planner.plan_main,
        "baselines": planner.plan_baselines,
        "search": planner.plan_search,
        "seeds": planner.plan_seeds,
    }
    name = next((name for name in NAMES if name not in record.decided), None)
    if name is None:
        return None
    if name in NAMES[2:] and not planner.has_planned:
        return record.skip(name, NOTHING_PLANNED)
    found = plans[name]()
    return record.skip(name, found) if isinstance(found, str) else record.begin(found)


class _Planner:
    """Plans a stage by the time that is left."""

    def __init__(self, record: Record, done: dict[str, Rows], nnunet_step: float | None):
        self.record, self.nnunet_step = record, nnunet_step
        self.speed = measure_speed(record, done)
        self.left = 3600 * record.request.hours * (1 - ENDING) - read_used(record, done) - measure_session(record, done)
        self.has_planned = any(
            row["status"] == "complete" and row["experiment"] == "e2" for row in done.get("planned", ())
        )

    def plan_small(self) -> Stage | str:
        """Plan E1 and E2 at SMALL_SIZE, unless the planned trials are as small."""
        planned = self.record.settings | self.record.request.settings
        if planned["data.size"] <= SMALL_SIZE and planned.get("data.fit") != "crop":
            return f"the planned size is {planned['data.size']} px, too"
        room = SMALL_SHARE * self.left / self.count_rounds(2)
        fitting = self.fit_steps("small", room, self.record.test_images)
        steps = self.replace_by_given(min(SMALL_STEPS, max(LEAST_SMALL_STEPS, fitting)))
        settings = self.record.settings | choose_network(SMALL_SIZE).settings | choose_steps(steps)
        tables = self.write_tables(settings | {"data.size": SMALL_SIZE, "data.fit": "resize"}, ["e1", "e2"], "small")
        took = self.count_rounds(2) * self.price("small", steps, self.record.test_images)
        return Stage("small", [tables], took, f"{steps} steps at {SMALL_SIZE} px, for a first answer")

    def plan_main(self) -> Stage | str:
        """Plan E1 and E2 at the planned size."""
        room, hours = PLANNED_SHARE * self.left / self.count_rounds(2), self.record.request.hours
        fitting = min(self.record.most_steps, self.fit_steps("e2", room, self.record.test_images))
        steps = self.replace_by_given(fitting)
        if fitting < LEAST_PLANNED_STEPS and steps == fitting:
            short = f"{hours:g} h allow {max(0, steps)} training steps, fewer than {LEAST_PLANNED_STEPS}"
            return f"{short}: give --hours {self.count_hours():.2g} or more"
        tables = self.write_tables(self.record.settings | choose_steps(steps), ["e1", "e2"], "planned")
        took = self.price_seed(steps)
        longer = f", which takes longer than the {hours:g} h" if took > self.left else ""
        return Stage("planned", [tables], took, f"{steps} steps each{longer}")

    def plan_baselines(self) -> Stage | str:
        """Plan the paper's ε-target and, if enough of its steps fit, nnU-Net."""
        if given := sorted(PAPER.keys() & self.record.request.settings.keys()):
            return f"{given[0]} is given, which is the paper's own"
        sampling = PAPER["inference.steps"] / self.record.settings["inference.steps"]
        paper = self.price("e2", self.steps, self.record.test_images, sampling)
        if paper > self.left:
            return f"the paper's ε-target would take {self.compare_with_left(paper)}"
        settings = self.record.settings | choose_steps(self.steps)
        plain = {path: value for path, value in settings.items() if not path.startswith("diffusion.")}
        parts = [self.write_tables(plain | PAPER, ["e2"], "paper")]
        took, reason = [paper], f"the paper's ε-target, {self.steps} steps"
        if self.nnunet_step is not None:
            count = self.count_nnunet_steps(self.nnunet_step, paper)
            if count < LEAST_NNUNET:
                reason += f"; without nnU-Net, since {count} of its steps fit, fewer than {LEAST_NNUNET}"
            else:
                tables = self.write_tables(plain, ["e1"], "planned")
                own = {"network.epochs": NNUNET_EPOCHS, "network.iterations": count // NNUNET_EPOCHS}
                parts.append(tables | {"network": {"nnunet": own}})
                took.append(self.speed.start + count * self.nnunet_step * self.speed.factor)
                reason += f", and nnU-Net, {count // NNUNET_EPOCHS * NNUNET_EPOCHS} of its own steps"
        return Stage("baselines", parts, max(took) if self.record.lanes > 1 else sum(took), reason)

    def plan_search(self) -> Stage | str:
        """Plan a search that starts from the planned E2, and its confirmation."""
        (best, seeds), images = CONFIRMED, self.record.train_images
        share = min(HELD_OUT, self.record.test_images / images)
        held_out = min(images / 2, max(share * images, HELD_OUT_LEAST))
        confirmation = self.count_rounds((best + 1) * seeds) * self.price("e2", self.steps, self.record.test_images)
        cheap, whole = (self.price("e2", steps, held_out) for steps in (self.steps // FIDELITY, self.steps))
        proposal = (cheap + TRAINED_WHOLLY * whole) / self.record.lanes
        budget = min(MOST_PROPOSALS, int((self.left - confirmation) / proposal))
        if budget < LEAST_PROPOSALS:
            needed = self.compare_with_left(LEAST_PROPOSALS * proposal + confirmation)
            return f"a search of {LEAST_PROPOSALS} proposals and its confirmation would take {needed}"
        search = {
            "space": "everything" if budget >= MANY_PROPOSALS else "target",
            "budget": budget,
            "objective": [self.record.request.metric],
            "confirm": f"{best}x{seeds}",
            "fidelities": [{"training.steps": max(1, self.steps // FIDELITY)}],
            "stop": {"hours": round((self.left - confirmation) / 3600, 4)},
            "start": {"data.held_out": round(share, 4), "data.held_out_least": HELD_OUT_LEAST},
        }
        settings = self.record.settings | choose_steps(self.steps) | {"training.evaluations": [0.5]}
        tables = self.write_tables(settings, [], None) | {"search": search}
        reason = f"{budget} proposals, and the best {best} again with {seeds} fresh seeds"
        return Stage("search", [tables], budget * proposal + confirmation, reason)

    def plan_seeds(self) -> Stage | str:
        """Plan E1 and E2 with fresh seeds."""
        one = self.price_seed(self.steps) / self.count_rounds(2)
        seeds = min(MOST_SEEDS, int(self.left / one) * self.record.lanes // 2)
        if seeds < 1:
            return f"a second seed of E1 and E2 would take {self.compare_with_left(self.price_seed(self.steps))}"
        tables = self.write_tables(self.record.settings | choose_steps(self.steps), ["e1", "e2"], "planned")
        took = self.count_rounds(2 * seeds) * one
        reason = f"{seeds} fresh seed{'s' * (seeds > 1)} of E1 and E2"
        return Stage("seeds", [tables | {"seeds": list(range(1, seeds + 1))}], took, reason)

    @property
    def steps(self) -> int:
        """The steps of the planned trials."""
        found = next(stage for stage in self.record.stages if stage.name == "planned")
        return self.replace_by_given(found.parts[0]["all"]["training.steps"])

    def price(self, pace: str, steps: int, images: float, sampling: float = 1.0) -> float:
        """Return the seconds that a trial is expected to take.

        Args:
            pace: e1, e2 or small.
            steps: Of its training.
            images: That it predicts.
            sampling: Network evaluations a sample, as a multiple of the planned ones.
        """
        step, image = self.record.paces[pace]
        return self.speed.start + self.speed.factor * (steps * step + images * image * sampling)

    def price_seed(self, steps: int) -> float:
        """Return the seconds that E1 and E2 are expected to take."""
        return self.count_rounds(2) * max(self.price(name, steps, self.record.test_images) for name in ("e1", "e2"))

    def fit_steps(self, pace: str, room: float, images: float) -> int:
        """Return the training steps of a trial that has a number of seconds; 0 or less if it has not even time to predict."""
        step, image = self.record.paces[pace]
        return int(((room - self.speed.start) / self.speed.factor - images * image) / step)

    def count_hours(self) -> float:
        """Return the hours that the command would need for LEAST_PLANNED_STEPS of E1 and E2, with a fourth to spare."""
        needed = self.price_seed(LEAST_PLANNED_STEPS) / PLANNED_SHARE
        used = 3600 * self.record.request.hours * (1 - ENDING) - self.left
        return 1.25 * (used + needed) / (1 - ENDING) / 3600

    def count_nnunet_steps(self, step: float, paper: float) -> int:
        """Return the steps of nnU-Net that fit beside the paper's trial, or with a single lane after it."""
        room = min(self.left, NNUNET_SHARE * paper) if self.record.lanes > 1 else min(paper, self.left - paper)
        return max(0, int((room - self.speed.start) / (step * self.speed.factor)))

    def replace_by_given(self, steps: int) -> int:
        """Return the steps that the command line gives, or else the planned ones."""
        return int(self.record.request.settings.get("training.steps", steps))

    def count_rounds(self, trials: int) -> int:
        """Return how many of some trials run one after the other."""
        return math.ceil(trials / self.record.lanes)

    def compare_with_left(self, seconds: float) -> str:
        """Return a time that does not fit, and what is left, in words."""
        return f"{seconds / 60:.0f} min, and {max(0.0, self.left) / 60:.0f} are left"

    def write_tables(self, settings: dict[str, Any], experiments: list[str], variant: str | None) -> dict[str, Any]:
        """Return the tables of a study file with these settings."""
        of_network = {path: value for path, value in settings.items() if path.startswith("network.")}
        of_data = {path: value for path, value in settings.items() if path.startswith("data.")}
        shared = {path: value for path, value in settings.items() if path not in of_network and path not in of_data}
        tables: dict[str, Any] = {
            "seeds": [0],
            "experiments": experiments,
            "all": shared,
            "network": {"ensemdiff": of_network},
            "data": {self.record.request.data: of_data},
        }
        return tables | ({"variant": {variant: {}}} if variant else {})


def describe_stages(record: Record) -> list[str]:
    """Return a line for each stage that was decided, in their order."""
    begun = {stage.name: f"{stage.reason} (about {max(1, round(stage.seconds / 60))} min)" for stage in record.stages}
    left_out = {name: f"left out, since {reason}" for name, reason in record.skipped}
    return [f"{name}: {words}" for name in NAMES if (words := (begun | left_out).get(name))]
