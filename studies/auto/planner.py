"""The plan of `diffseg auto`: what the data, the machine and the hours ask for, and the study that follows from its stages."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from diffseg.config import Config
from diffseg.errors import UserError
from studies.auto import design
from studies.auto.design import Frame
from studies.auto.inspection import Inspection, inspect
from studies.auto.pace import Pace, measure_pace
from studies.auto.record import Record, Request
from studies.definition.changes import extend_study
from studies.definition.expansion import Description
from studies.definition.reading import build_study
from studies.definition.study import Study
from studies.engine.resources import Resources, allocate
from studies.planning.estimate import estimate_cost
from studies.planning.plan import describe_machine
from studies.search.fingerprints import build_weighted, estimate_fingerprints
from studies.search.recommendation import USUAL, Choice, recommend
from studies.store.places import cache_folder

SOURCE = Path("auto")  # what messages call the description that trials are expanded from
ENSEMBLE = 5
LEAST_SHARE = 0.2  # of the hours, in which E2 should make design.LEAST_STEPS
QUICK_SIZE = 64  # px of the quick fingerprint, which needs much memory at larger ones
Progress = Callable[[str], AbstractContextManager[Callable[[int, int], Any]]]


def make_plan(
    request: Request, store: str, resources: Resources, progress: Progress, say: Callable[[str], None]
) -> Record:
    """Look at the data and the machine, and choose the settings of all trials.

    Args:
        request: What is asked for.
        store: Its cache is used.
        resources: Of each trial.
        progress: Returns, for a task in words, a context whose value is called with (done, total).
        say: Prints a sentence.

    Raises:
        UserError: The data cannot be used.
    """
    clock = time.perf_counter()
    with progress(f"reading {request.data}") as on_progress:
        found = inspect(request.data, request.root, request.settings, cache_folder(store), on_progress)
    for remark in found.remarks:
        say(f"note: {remark}")
    share, lanes = allocate(resources, [describe_machine()])
    device = "gpu" if share.gpus else "cpu"
    seconds = LEAST_SHARE * 3600 * request.hours
    base = [*design.describe_data(found), design.describe_training()]

    def time_trial(frame: Frame, experiment: str, choices: list[Choice]) -> Pace:
        return measure_pace(_config(request, found, experiment, [*choices, *_describe_size(frame, found)]), share.cpus)

    def fits(frame: Frame) -> bool:
        pace = time_trial(frame, "e2", base)
        return design.LEAST_STEPS * pace.step + found.test_images * frame.tiles(found.area) * pace.image <= seconds

    frame = _given_frame(request) or design.choose_frame(design.list_frames(found), fits)
    choices = [*base, *_describe_size(frame, found)]
    choices += _recommend(request, _join(choices), store, progress)
    limit = design.choose_test_images(found, time_trial(frame, "e2", choices).image * frame.tiles(found.area), seconds)
    choices += [limit] if limit else []
    paces = {name: time_trial(frame, name, choices) for name in ("e1", "e2")}
    tiles, small = frame.tiles(found.area), time_trial(Frame(32), "e2", choices)
    choices.append(
        Choice({"inference.ensemble": ENSEMBLE}, "samples an image: more gain little (0.35 points of IoU with twenty)")
    )
    return Record(
        request=request,
        choices=[(choice.settings, choice.reason) for choice in choices],
        lanes=lanes,
        device=device,
        paces={name: (pace.step, pace.image * tiles) for name, pace in paces.items()}
        | {"small": (small.step, small.image)},
        test_images=limit.settings["data.test_images"] if limit else found.test_images,
        planning=time.perf_counter() - clock,
        most_steps=design.MOST_STEPS[device],
    )


def build_stages(record: Record, name: str, command: str = "") -> Study:
    """Return the study of all stages that have begun."""
    request, found = record.request, None
    for part in (part for stage in record.stages for part in stage.parts):
        description = Description(SOURCE, part, part["data"], request.settings, {request.data: request.root})
        study = build_study(description, name, command)
        found = extend_study(found, study) if found else study
    assert found is not None
    return found


def estimate_nnunet_step(record: Record) -> float:
    """Return about how many seconds a step of nnU-Net takes here, by its operations and the steps that were timed."""
    settings = {path: value for path, value in record.settings.items() if path.startswith(("data.", "training."))}
    common = {"experiment": "e1", "data.name": record.request.data, **settings, "training.snapshots": []}
    network = {path: value for path, value in record.settings.items() if path.startswith("network.")}
    once = {"network": "nnunet", "network.epochs": 1, "network.iterations": 1, "data.test_images": 1}
    ours = Config().with_leaves(common | network | {"training.steps": 1, "data.test_images": 1}).resolved()
    theirs = Config().with_leaves(common | once).resolved()
    return record.paces["e1"][0] * estimate_cost(theirs).flops / estimate_cost(ours).flops


def _given_frame(request: Request) -> Frame | None:
    """Return the frame that the command line gives; None if it gives no size."""
    given = request.settings
    if "data.size" not in given:
        return None
    return Frame(
        int(given["data.size"]), float(given.get("data.scale", 1.0)) if given.get("data.fit") == "crop" else None
    )


def _recommend(request: Request, settings: dict[str, Any], store: str, progress: Progress) -> list[Choice]:
    """Return the design that the quick fingerprint speaks for.

    settings: that were chosen so far; those of the data decide what the fingerprint is of.
    """
    of_data = {path: value for path, value in {**settings, **request.settings}.items() if path.startswith("data.")}
    of_data["data.size"] = min(QUICK_SIZE, of_data["data.size"])
    roots = {request.data: request.root}
    config = build_weighted(request.data, roots, of_data)
    try:
        with progress(f"estimating the fingerprint of {request.data}") as on_progress:
            estimated = estimate_fingerprints(config, request.root, store, on_progress)
        return recommend(next(iter(estimated.values())))
    except UserError as error:
        return [Choice(USUAL, f"the usual design, since {error}")]


def _describe_size(frame: Frame, found: Inspection) -> list[Choice]:
    """Return the choices that follow from a frame: the size and the network."""
    return [design.describe_frame(frame, found), design.choose_network(frame.size)]


def _config(request: Request, found: Inspection, experiment: str, choices: list[Choice]) -> Config:
    """Return a trial to time: its data are read as those of the data set, whose images it does not need."""
    settings = {**_join(choices), **request.settings}
    leaves = {
        "experiment": experiment,
        "diffusion.target": "x0",
        "diffusion.activation": "tanh",
        "inference.ensemble": ENSEMBLE,
    }
    config = Config().with_leaves({**leaves, **settings, "data.name": request.data, "data.layout": found.data.layout})
    data = found.data.model_copy(update={"size": settings["data.size"], "channels": settings["data.channels"]})
    return config.model_copy(update={"data": data}).resolved()


def _join(choices: list[Choice]) -> dict[str, Any]:
    """Return the settings of all choices."""
    return {path: value for choice in choices for path, value in choice.settings.items()}
