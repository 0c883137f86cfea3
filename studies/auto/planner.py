"""The plan of `diffseg auto`: what the data, the machine and the hours ask for, and the studies that follow from its stages."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffseg.config import Config
from diffseg.errors import UserError
from diffseg.evaluation.registry import METRICS, SEVERAL_RATERS
from studies.auto import design
from studies.auto.design import Frame
from studies.auto.inspection import Inspection, inspect
from studies.auto.pace import Pace, measure_pace
from studies.auto.record import Record, Request, Stage
from studies.auto.stages import COLUMNS, SMALL_SIZE, Rows, next_stage, pretend
from studies.definition.changes import extend_study
from studies.definition.expansion import Description
from studies.definition.reading import build_study
from studies.definition.study import Study
from studies.engine.resources import Resources, allocate
from studies.planning.estimate import estimate_cost
from studies.planning.plan import count_processors
from studies.search.fingerprints import build_weighted, estimate_fingerprints
from studies.search.recommendation import USUAL, Choice, recommend
from studies.store.ledger import Ledger
from studies.store.places import cache_folder

SOURCE = Path("auto")  # what messages call the description that trials are expanded from
DECIDED = ("experiment", "seed", "network", "network.name", "preset", "inference.seeds")  # settings that stages set
OF_FRAME = ("data.size", "data.fit", "data.scale")
ENSEMBLE = 5
LEAST_SHARE = 0.2  # of the hours, in which E2 should make design.LEAST_STEPS
QUICK_SIZE = 64  # px of the quick fingerprint, which needs much memory at larger ones
SMALL = "small"  # the stage that is a study of its own, since its metrics are of smaller images
Progress = Callable[[str], AbstractContextManager[Callable[[int, int], Any]]]


def make_plan(request: Request, store: str, progress: Progress, say: Callable[[str], None]) -> Record:
    """Look at the data and the machine, and choose the settings of all trials.

    Args:
        request: What is asked for.
        store: Its cache is used.
        progress: Returns, for a task in words, a context whose value is called with (done, total).
        say: Prints a sentence.

    Raises:
        UserError: The data cannot be used, or a given setting cannot.
    """
    clock = time.perf_counter()
    if given := [key for key in DECIDED if key in request.settings]:
        raise UserError(
            f"{given[0]} is decided by the stages of auto: leave it out, or write a study with `diffseg init`"
        )
    with progress(f"reading {request.data}") as on_progress, _without_remarks():
        found = inspect(request.data, request.root, request.settings, cache_folder(store), on_progress)
    for remark in found.remarks:
        say(f"note: {remark}")
    if METRICS[request.metric].applies is SEVERAL_RATERS and found.raters == 1:
        raise UserError(
            f"--metric {request.metric} needs masks of several raters, but {request.data} has one: give iou or another"
        )
    with _without_remarks():
        choices, paces, limit, lanes, device = _choose(request, found, store, progress)
    record = Record(
        request=request,
        choices=[(choice.settings, choice.reason) for choice in choices],
        lanes=lanes,
        paces=paces,
        train_images=found.train_images,
        test_images=limit,
        planning=time.perf_counter() - clock,
        most_steps=design.MOST_STEPS[device],
    )
    whole = preview(record)
    for stage in whole.stages:  # a setting that cannot be used is refused now, and not after hours
        build_stage(whole, stage, "auto")
    return record


def preview(record: Record) -> Record:
    """Return the record with all stages, as they would be if each took as long as expected."""
    step = estimate_nnunet_step(record)
    while found := next_stage(record, pretend(record), step):
        record = found
    return record


def build_stage(record: Record, stage: Stage, name: str, command: str = "") -> Study:
    """Return the trials of one stage as a study of a name."""
    request, found = record.request, None
    for part in stage.parts:
        dropped = OF_FRAME if stage.name == SMALL else ()
        others = stage.name == SMALL or "nnunet" in part["network"]  # whose network is not the planned one
        settings = {
            path: value
            for path, value in request.settings.items()
            if path not in dropped and not (others and path.startswith("network."))
        }
        description = Description(SOURCE, part, part["data"], settings, {request.data: request.root})
        study = build_study(description, name, command)
        found = extend_study(found, study) if found else study
    assert found is not None
    return found


def build_stages(record: Record, name: str, command: str = "") -> Study | None:
    """Return the study of all stages but the small one; None before any has begun."""
    found: Study | None = None
    for stage in record.stages:
        if stage.name != SMALL:
            study = build_stage(record, stage, name, command)
            found = extend_study(found, study) if found else study
    return found


def read_rows(record: Record, ledger: Ledger, small: Ledger) -> dict[str, Rows]:
    """Return the rows of the trials that have ended, by their stage. Those of no other stage are the search's."""
    rows = {row["trial"]: row for row in ledger.last_rows(COLUMNS)} if ledger.is_defined() else {}
    found = {SMALL: small.last_rows(COLUMNS) if small.is_defined() else []}
    for stage in record.stages:
        if stage.name != SMALL:
            names = [trial.name for trial in build_stage(record, stage, ledger.study).trials]
            found[stage.name] = [rows.pop(name) for name in names if name in rows]
    return found | {"search": [*found.get("search", []), *rows.values()]}


def estimate_nnunet_step(record: Record) -> float:
    """Return about how many seconds a step of nnU-Net takes here, by its operations and the steps that were timed."""
    settings = {path: value for path, value in record.settings.items() if path.startswith(("data.", "training."))}
    settings |= {"experiment": "e1", "data.name": record.request.data, "data.test_images": 1, "training.steps": 1}
    network = {path: value for path, value in record.settings.items() if path.startswith("network.")}
    once = {"network": "nnunet", "network.epochs": 1, "network.iterations": 1}
    ours, theirs = (Config().with_leaves(settings | own).resolved() for own in (network, once))
    return record.paces["e1"][0] * estimate_cost(theirs).flops / estimate_cost(ours).flops


def _choose(
    request: Request, found: Inspection, store: str, progress: Progress
) -> tuple[list[Choice], dict[str, tuple[float, float]], int, int, str]:
    """Return the choices, the paces, the number of test images, the trials side by side, and the device, cpu or gpu."""
    share, lanes = allocate(Resources(request.cpus, request.gpus), [count_processors()])
    device, seconds = "gpu" if share.gpus else "cpu", LEAST_SHARE * 3600 * request.hours
    base = [*design.describe_data(found), design.describe_training()]

    def time_trial(frame: Frame, experiment: str, choices: list[Choice]) -> Pace:
        settings = _join([*choices, *_describe_size(frame, found)]) | design.choose_steps(design.MOST_STEPS[device])
        config = _build_timed(request, found, experiment, settings)
        return measure_pace(config, share.cpus, share.gpus or 0.0)

    def fits(frame: Frame) -> bool:
        pace = time_trial(frame, "e2", base)
        return design.LEAST_STEPS * pace.step + found.test_images * frame.tiles(found.area) * pace.image <= seconds

    frame = _replace_by_given(design.choose_frame(design.list_frames(found), fits), request.settings)
    choices = [*base, *_describe_size(frame, found)]
    choices += _recommend(request, _join(choices), store, progress)
    paces = {name: time_trial(frame, name, choices) for name in ("e1", "e2")}
    tiles = frame.tiles(found.area)
    if limit := design.choose_test_images(found, paces["e2"].image * tiles, seconds):
        choices.append(limit)
    choices.append(
        Choice({"inference.ensemble": ENSEMBLE}, "samples an image: twenty gained 0.35 points of IoU on ISIC16")
    )
    timed = {name: (pace.step, pace.image * tiles) for name, pace in paces.items()}
    small = time_trial(Frame(SMALL_SIZE), "e2", choices)
    count = int({**_join(choices), **request.settings}.get("data.test_images") or found.test_images)
    return choices, timed | {SMALL: (small.step, small.image)}, count, lanes, device


@contextmanager
def _without_remarks() -> Iterator[None]:
    """Leave out the remarks that are logged whenever files are read, since the plan prints them once."""
    logger = logging.getLogger("diffseg.data")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _replace_by_given(frame: Frame, given: dict[str, Any]) -> Frame:
    """Return a frame with the size, the fit and the scale that the command line gives."""
    frame = replace(frame, size=int(given.get("data.size", frame.size)))
    if given.get("data.fit") == "resize":
        return replace(frame, scale=None)
    if given.get("data.fit") == "crop" or "data.scale" in given:
        return replace(frame, scale=float(given.get("data.scale", frame.scale or 1.0)))
    return frame


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


def _build_timed(request: Request, found: Inspection, experiment: str, settings: dict[str, Any]) -> Config:
    """Return a trial to time: its data are read as those of the data set, whose images it does not need."""
    given = {path: value for path, value in request.settings.items() if path not in OF_FRAME}
    usual = {"experiment": experiment, **USUAL, "inference.ensemble": ENSEMBLE}
    own = {"data.name": request.data, "data.layout": found.data.layout, "data.fit": "resize"}
    config = Config().with_leaves({**usual, **settings, **given, **own})
    data = found.data.model_copy(update={"size": config.data.size, "channels": config.data.channels, "fit": "resize"})
    return config.model_copy(update={"data": data.model_copy(update={"test_crops": False})}).resolved()


def _join(choices: list[Choice]) -> dict[str, Any]:
    """Return the settings of all choices."""
    return {path: value for choice in choices for path, value in choice.settings.items()}
