"""The program `diffseg`. Heavy packages are imported by the commands that need them."""

import contextlib
import errno
import functools
import json
import os
import shlex
import signal
import sys
import threading
from pathlib import Path
from typing import NoReturn

import click

from diffseg.config import parse_leaf
from diffseg.errors import MachineryError, UserError
from studies.engine.signals import STOPPED

FAILED_TRIALS, WRONG_USE, MACHINERY = 1, 2, 3  # exit statuses besides 0 and STOPPED


def _speak_utf8() -> None:
    """Start Python anew in UTF-8 mode where the locale would have names and texts in another encoding."""
    if sys.getfilesystemencoding() != "utf-8" and not sys.flags.utf8_mode:
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


class Program(click.Group):
    """Shows errors of users and of the machinery as one sentence, and leaves faults of the program their traceback.

    SIGTERM ends every command as Ctrl-C does.
    """

    def main(self, *args, **kwargs):
        _speak_utf8()
        with _terminated_as_interrupted():
            try:
                _check_folder()
                sys.exit(super().main(*args, **{**kwargs, "standalone_mode": False}))
            except UserError as error:
                _end(str(error), WRONG_USE)
            except MachineryError as error:
                _end(str(error), MACHINERY)
            except click.ClickException as error:
                _end(error.format_message(), WRONG_USE)
            except (click.Abort, KeyboardInterrupt):
                _end("stopped", STOPPED)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                _drop_output()
                _end(f"the disk is full ({error}): make room, then give the same command again", MACHINERY)


def _check_folder() -> None:
    """Raise UserError if the current folder is gone: libraries that look for it end the process."""
    try:
        os.getcwd()
    except OSError as error:
        raise UserError(f"the current folder cannot be read ({error.strerror}): change to another") from None


def _drop_output() -> None:
    """Send what is still to be written to nowhere, lest Python fails at it once more when it ends."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end(message: str, status: int) -> NoReturn:
    click.echo(f"diffseg: {message}", err=True)
    sys.exit(status)


@contextlib.contextmanager
def _terminated_as_interrupted():
    """Make SIGTERM raise KeyboardInterrupt. Only the main thread may set handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _roots(_ctx, _param, values: tuple[str, ...]) -> dict[str, str]:
    roots = {}
    for value in values:
        from studies.store.folder import absolute_place  # pyarrow takes long to import

        name, equals, root = value.partition("=")
        if not equals or not name or not root:
            raise click.BadParameter(f"got '{value}', but data are named NAME=ROOT, such as --data isic16=/data/isic16")
        roots[name] = absolute_place(root)
    return roots


store_option = click.option(
    "--store",
    default=lambda: os.environ.get("DIFFSEG_STORE", "results"),
    metavar="DIR",
    help="Where studies are kept: a folder or a URI.  [default: $DIFFSEG_STORE, or results]",
)
data_option = click.option(
    "--data",
    "roots",
    multiple=True,
    callback=_roots,
    metavar="NAME=ROOT",
    help="Where a data set lies, as every node sees it: a folder or a URI; repeatable.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
name_option = click.option("--name", help="Name of the study in the store.  [default: STUDY]")
experiment_option = click.option(
    "--experiment",
    "experiments",
    multiple=True,
    type=click.Choice(["e1", "e2", "e3", "e4"]),
    help="Only this experiment of the study; repeatable.",
)
METRICS = [
    "iou",
    "dice",
    "ece",
    "brier",
    "nll",
    "iou_raters",
    "dice_raters",
    "ged",
    "ged_unbiased",
    "hm_iou",
    "ncc",
]
TABLE_WIDTH = 160  # characters, where tables go to a file or another program
settings_argument = click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")


def _placement_options(command):
    """What a trial gets, as one keyword `placement`."""

    @functools.wraps(command)
    def placed(*arguments, cpus, gpus, workers, labels, **more):
        placement = {"cpus": cpus, "gpus": gpus, "workers": workers, "labels": labels}
        return command(*arguments, placement=placement, **more)

    for option in (
        click.option(
            "--label",
            "labels",
            multiple=True,
            metavar="KEY=VALUE",
            callback=_labels,
            help="Only nodes that Ray labels so, such as ray.io/accelerator-type=H100.",
        ),
        click.option(
            "--workers",
            type=click.IntRange(min=1),
            default=1,
            show_default=True,
            help="Processes that train a trial together, each with a part of every batch.",
        ),
        click.option(
            "--gpus",
            type=click.FloatRange(min=0),
            help="GPUs a worker, or a fraction of one.  [default: 1 if there are any]",
        ),
        click.option(
            "--cpus", type=click.FloatRange(min=0, min_open=True), default=1.0, show_default=True, help="CPUs a worker."
        ),
    ):
        placed = option(placed)
    return placed


def _labels(_ctx, _param, values: tuple[str, ...]) -> dict[str, str]:
    pairs = [value.partition("=") for value in values]
    if wrong := [value for value, pair in zip(values, pairs, strict=True) if not all(pair)]:
        raise click.BadParameter(f"got '{wrong[0]}', but nodes are labelled KEY=VALUE")
    return {key: value for key, _, value in pairs}


def _search_options(command):
    for option in (
        click.option("--confirm", metavar="KxN", help="Search: train the best K again with N fresh seeds."),
        click.option(
            "--pruning", type=click.IntRange(min=0), help="Search: at every rung one in so many goes on; 0: all."
        ),
        click.option("--sampler", help="Search: tpe, gp, random or grid."),
        click.option(
            "--objective", metavar="METRIC,...", help="Search: what to improve; of several, the Pareto front."
        ),
        click.option("--budget", type=click.IntRange(min=1), help="Search: proposals in all; a larger one extends."),
        click.option("--space", help="Search: schedule, target, weighting, fingerprint or everything."),
        click.option("--concurrency", type=click.IntRange(min=1), help="Trials side by side, at most."),
    ):
        command = option(command)
    return command


def _study_options(command):
    """What says which study, and on what: of `run` and of `plan`."""
    for option in (
        _placement_options,
        _search_options,
        experiment_option,
        name_option,
        data_option,
        store_option,
        settings_argument,
        click.argument("study"),
    ):
        command = option(command)
    return command


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="diffseg", prog_name="diffseg")
def main():
    """Studies of diffusion segmentation: run them, resume them, read what they found.

    Start with `diffseg run quickstart`.
    """


@main.command()
@_study_options
@click.option("--extend", is_flag=True, help="Add to a study that exists with another definition.")
@click.option("--address", help="Address of a running Ray cluster; 'auto' finds one.  [default: a Ray of its own]")
@click.option("--report/--no-report", default=True, help="Write the report at the end.  [default: --report]")
def run(study, settings, store, roots, name, experiments, placement, concurrency, extend, address, report, **search):
    """Start, resume or extend a study: do what the store lacks.

    STUDY is a shipped study (quickstart, paper, search), a TOML file, or the name of a study in the store. KEY=VALUE sets any leaf
    of the configuration in all trials, such as training.steps=100.
    """
    from studies.engine.session import run as run_session

    wanted, ledger = _wanted(study, settings, store, roots, name, experiments, extend, search)
    finished = run_session(wanted, ledger, _resources(wanted, placement, concurrency), address=address)
    _finish(wanted, ledger, finished, report)


@main.command()
@click.argument("study")
@store_option
@_placement_options
@click.option("--address", help="Address of a running Ray cluster.")
def retry(study, store, placement, address):
    """Run the trials that failed once more, and those that are missing."""
    from studies.engine.session import run as run_session

    wanted, ledger = _stored(study, store)
    finished = run_session(wanted, ledger, _resources(wanted, placement), retry=True, address=address)
    _finish(wanted, ledger, finished, with_report=True)


@main.command()
@click.argument("study")
@store_option
def stop(study, store):
    """Have the session that runs a study end, wherever it runs: its trials leave checkpoints, and `run` goes on from them."""
    from studies.engine.files import STOP
    from studies.store.lock import Lock

    ledger = _ledger(study, store)
    if not Lock(ledger.folder).is_held():
        raise UserError(f"no session runs {study} in the store {store}")
    ledger.folder.write(STOP, b"")
    click.echo(f"{study} stops: its trials leave checkpoints, which takes seconds, or as long as their evaluations")


QUIET_PROFILER = {"KINETO_LOG_LEVEL": "99", "TORCH_CPP_LOG_LEVEL": "ERROR"}


@main.command()
@click.option(
    "--part",
    "parts",
    multiple=True,
    help="Of these: training, prediction, data, metrics, fingerprint, engine.  [default: all]",
)
@click.option("--network", "networks", multiple=True, help="Of these.  [default: all that diffuse]")
@click.option(
    "--preset",
    help="Of the networks, or `published`, for all published ones, which want a GPU.  [default: debug twins]",
)
@click.option("--size", type=click.IntRange(min=16), help="px.  [default: 64, of the published presets their own]")
@click.option("--batch", "batches", type=click.IntRange(min=1), multiple=True, default=(8, 16), show_default=True)
@click.option("--compile", "compiled", is_flag=True, help="With torch.compile, too, which takes a minute a network.")
@click.option(
    "--rounds", type=click.IntRange(min=3), default=9, show_default=True, help="How often all ways take turns."
)
@click.option("--output", type=click.Path(dir_okay=False), default="bench.parquet", show_default=True)
@json_option
def bench(parts, networks, preset, size, batches, compiled, rounds, output, as_json):
    """How fast this machine trains, predicts, gathers and evaluates, against what others would do it with.

    All ways of a thing take turns in one process; it reports the median and the ratio to the first. Besides, what the engine
    takes between trials and for reading a ledger. Writes a Parquet table, and a chart beside it.
    """
    for name, level in QUIET_PROFILER.items():  # which torch reads when it is imported
        os.environ.setdefault(name, level)
    import pandas as pd

    from analysis.speed import chart, table
    from analysis.tables import records
    from diffseg.bench import contests as measurements
    from diffseg.bench import harness
    from diffseg.config.presets import names
    from diffseg.training.execution import computing_device
    from studies.engine import bench as engine

    device = computing_device()
    known = {"part": [*measurements.PARTS, "engine"], "network": list(measurements.PRESETS)}
    parts, networks = parts or known["part"], networks or known["network"]
    for option, given in (("part", parts), ("network", networks)):
        if unknown := set(given) - set(known[option]):
            raise UserError(f"--{option} {min(unknown)} is none of {', '.join(known[option])}")
    if not (chosen := measurements.chosen(networks, preset)):
        allowed = ["published", "debug", *(one for name in networks for one in names(name))]
        raise UserError(f"--preset {preset} is none of {', '.join(allowed)}")
    machine, rows = harness.machine(device), []

    def keep(found: list[dict]) -> None:
        """At once, so that what was measured outlives what is still to be."""
        rows.extend(row | machine for row in found)
        pd.DataFrame(rows).to_parquet(output)

    for contest in measurements.contests(parts, chosen, size, batches, compiled, device):
        click.echo(f"{contest.subject} {contest.network} {contest.detail}", err=True)
        keep(harness.measure(contest, rounds, device))
    if "engine" in parts:
        click.echo("engine", err=True)
        keep(engine.measure(rounds))
    frame = pd.DataFrame(rows)
    chart(frame).save(Path(output).with_suffix(".html"), inline=True)
    _show(records(frame), as_json, table)


@main.command()
@_study_options
@json_option
def plan(study, settings, store, roots, name, experiments, placement, concurrency, as_json, **search):
    """What `run` would do: the missing trials, what each costs, how many run side by side, about how long."""
    from studies.planning.plan import plan as make
    from studies.planning.plan import table

    wanted, ledger = _wanted(study, settings, store, roots, name, experiments, True, search)
    found = make(wanted, ledger, _resources(wanted, placement, concurrency))
    _show(found, as_json, table)


@main.command()
@click.argument("dataset")
@settings_argument
@store_option
@data_option
@_placement_options
@json_option
@click.option("--quick", is_flag=True, help="Estimate it without training, in about a minute.")
@click.option("--address", help="Address of a running Ray cluster.")
def fingerprint(dataset, settings, store, roots, placement, as_json, quick, address):
    """At which noise levels is a mask of this data set decided?

    Trains E3, which sees the noisy mask alone, as a study of its own (fingerprint-DATASET), and reports how its error rises.
    KEY=VALUE sets any leaf of a trial that is weighted by it, such as data.size=128, diffusion.fingerprint=dice or
    diffusion.fingerprint_seeds=[0,1]. Synthetic data sets need no --data.
    """
    from studies.definition.changes import extend_study
    from studies.definition.study import stored_study
    from studies.engine.resources import Resources
    from studies.engine.session import run as run_session
    from studies.search.fingerprints import build_study, build_table, estimate_fingerprint, read_fingerprint, to_dict

    config, roots, ledger = _fingerprint_of(dataset, settings, store, roots)
    if quick:
        found = estimate_fingerprint(config, roots.get(dataset), store)
        _show(to_dict(found), as_json, lambda _: build_table(found))
        return
    wanted, definition = build_study(config, roots, shlex.join(["diffseg", *sys.argv[1:]])), ledger.usable_definition()
    whole = extend_study(stored_study(wanted.name, definition), wanted) if definition else wanted
    finished = run_session(whole, ledger, Resources(**placement), address=address, quiet=as_json)
    found = read_fingerprint(config, ledger)
    if found:
        _show(to_dict(found), as_json, lambda _: build_table(found))
    _finish(whole, ledger, finished, with_report=not as_json)


@main.command()
@click.argument("dataset")
@settings_argument
@store_option
@data_option
@click.option("--output", type=click.Path(dir_okay=False), help="The TOML file to write.  [default: DATASET.toml]")
def recommend(dataset, settings, store, roots, output):
    """A configuration that suits a data set, from its fingerprint alone, as a study file ready to run.

    The fingerprint is the one in the store, or else the quick estimate. Synthetic data sets need no --data.
    """
    from studies.definition.trial import Trial
    from studies.planning.datasets import check_datasets
    from studies.search.fingerprints import estimate_fingerprint, read_fingerprint
    from studies.search.recommendation import format_study, recommend

    config, roots, ledger = _fingerprint_of(dataset, settings, store, roots)
    found = read_fingerprint(config, ledger)
    source = "measured by E3" if found else "estimated without training"
    choices = recommend(found or estimate_fingerprint(config, roots.get(dataset), store))
    check_datasets([Trial(dataset, config.fingerprint_trials()[0])], roots, store)
    path = Path(output or f"{dataset}.toml")
    path.write_text(format_study(config, choices, source), encoding="utf-8")
    for choice in choices:
        shown = ", ".join(
            f"{key}={'…' if key == 'diffusion.profile' else value}" for key, value in choice.settings.items()
        )
        click.echo(f"{shown}: {choice.reason}")
    given = "".join(f" --data {shlex.quote(f'{name}={root}')}" for name, root in roots.items())
    click.echo(f"From the fingerprint {source}. Run it: diffseg run {shlex.quote(str(path))}{given}")


@main.command()
@click.argument("study")
@store_option
@json_option
def status(study, store, as_json):
    """How far a study is, from the store alone."""
    from studies.store.light import import_pyarrow

    import_pyarrow()
    from studies.store.state import status_table, trial_states

    wanted, ledger = _stored(study, store)
    found = trial_states(wanted, ledger)
    _show([state.to_dict() for state in found], as_json, lambda _: status_table(wanted, found))


@main.command()
@click.argument("study")
@click.argument("trial")
@store_option
@json_option
def show(study, trial, store, as_json):
    """Everything about one trial: metrics, costs, configuration, error and the end of its log.

    TRIAL is its name or the beginning or end of it.
    """
    from studies.store.state import trial_details, trial_text

    wanted, ledger = _stored(study, store)
    _show(trial_details(wanted, ledger, trial), as_json, trial_text)


@main.command()
@click.argument("study")
@store_option
@click.option(
    "--metric", type=click.Choice(METRICS), help="To order by.  [default: iou, of proposals their objectives]"
)
@click.option(
    "--pareto", is_flag=True, help="Show the trials that no other beats in both IoU and ECE, or a search's objectives."
)
@click.option("--held-out", is_flag=True, help="Show all proposals of searches, which are scored on held-out images.")
@json_option
def best(study, store, metric, pareto, held_out, as_json):
    """The best trials of each data set by the test images, confirmed ones of searches included.

    Proposals of a search are scored on held-out training images. They are shown, and marked so, until some are confirmed.
    """
    from studies.store.best import best_tables, best_trials, nothing_measured_error, unconfirmed_searches

    wanted, ledger = _stored(study, store)
    rows = [] if held_out else best_trials(wanted, ledger, metric or "iou", pareto)
    if open_searches := unconfirmed_searches(wanted, ledger, rows):
        from analysis.searches import best_proposals

        rows += best_proposals(ledger, open_searches, metric, pareto)
    if metric and not any(row[metric] is not None for row in rows):
        raise nothing_measured_error(study, metric if rows or best_trials(wanted, ledger, "iou", pareto) else None)
    if not rows:
        raise nothing_measured_error(study)
    _show(rows, as_json, lambda rows: best_tables(rows, metric or "iou"))


@main.command()
@click.argument("study")
@store_option
@json_option
def compare(study, store, as_json):
    """Every configuration against the study's baseline on the test images: means, differences, 95 % intervals, verdicts.

    The baseline is the variant that a study file names, or the first proposal of a search among what it confirmed.
    """
    from analysis.comparison import required
    from analysis.tables import load, records
    from analysis.text import comparison_table

    ledgers = [_stored(study, store)[1]]
    _show(records(required(load(ledgers), ledgers)), as_json, comparison_table)


@main.command()
@click.argument("studies", nargs=-1, required=True, metavar="STUDY...")
@store_option
@click.option(
    "--output", type=click.Path(dir_okay=False), help="The file to write.  [default: report.html in the study's folder]"
)
@click.option(
    "--png", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="Also write every chart there."
)
def report(studies, store, output, png):
    """Write one HTML file with the tables and charts of one study, or of several side by side; it opens offline."""
    from analysis.report import write

    ledgers = [_ledger(study, store) for study in studies]
    click.echo(write(ledgers, Path(output) if output else _beside(ledgers[0], "report.html"), png))


@main.command()
@click.argument("study")
@store_option
@click.option("--port", type=click.IntRange(1, 65535), default=8080, show_default=True, help="On this machine alone.")
@click.option(
    "--tensorboard", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
    help="Write TensorBoard's event files there instead.",
)  # fmt: skip
def dashboard(study, store, port, tensorboard):
    """Look at a study in optuna-dashboard, in a journal made of its ledger; Ctrl-C ends it."""
    from analysis.tables import load

    ledger = _ledger(study, store)
    found = load([ledger])
    if tensorboard:
        from analysis.export import event_files

        click.echo(f"{event_files(found, tensorboard)} trials in {tensorboard}: tensorboard --logdir {tensorboard}")
        return
    import socket

    import optuna_dashboard

    from analysis.export import journal

    storage = journal(found, _beside(ledger, "dashboard.journal"))
    try:
        socket.create_server(("127.0.0.1", port)).close()  # before the server prints that it listens
        optuna_dashboard.run_server(storage, host="127.0.0.1", port=port)
    except OSError as error:
        raise UserError(f"port {port} cannot be used ({error}): give another with --port") from None


@main.command()
@click.argument("study")
@store_option
def compact(study, store):
    """Merge a study's many small files into one a table, which is read much faster; nothing is lost if it is stopped."""
    from studies.store.compaction import compact as merge

    count = merge(_ledger(study, store))
    click.echo(f"{count} attempts of {study} were merged" if count else f"{study} has nothing left to merge")


@main.command()
@click.argument("study")
@click.argument("trial")
@click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="INPUT...")
@store_option
@click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path), default="predictions", show_default=True, metavar="DIR",
    help="Where the masks and maps go.",
)  # fmt: skip
@click.option("--device", help="Such as cpu or cuda:1.  [default: a GPU if there is one]")
def predict(study, trial, inputs, store, output, device):
    """Segment new images with a finished trial: mask, mean, standard deviation and samples of each, at its own size.

    INPUT is a picture, a NIfTI volume or a folder of them (for BRATS, a patient's folder); TRIAL is a trial's name or the
    beginning or end of it.
    """
    from diffseg.data.scaling import Scaling
    from diffseg.prediction.new_images import run as run_prediction
    from studies.definition.trial import trial_name
    from studies.store.copies import LocalCopy
    from studies.store.state import find_trial, finished_row

    wanted, ledger = _stored(study, store)
    chosen = find_trial(wanted, ledger, trial)
    try:
        scaling = Scaling(**json.loads(finished_row(ledger, chosen.name)["scaling"]))
    except (TypeError, ValueError):
        raise UserError(
            f"the ledger does not say how the images of {chosen.name} were scaled: run it again in a study of another name"
        ) from None

    def folder_of(name: str) -> Path:
        folder = ledger.folder.at(f"work/{name}")
        return folder.local or LocalCopy(folder).fetch()

    with _progress("predicting") as on_progress:
        written = run_prediction(
            chosen.config,
            folder_of(chosen.name),
            scaling,
            list(inputs),
            output,
            device,
            folder_of=lambda member: folder_of(trial_name(member)),
            checkpoint_of=lambda member: finished_row(ledger, trial_name(member))["checkpoint"],
            on_progress=on_progress,
        )
    click.echo(f"{len(written)} files in {output}")


@main.group()
def cluster():
    """Clusters: check what describes them, and have them run studies."""


@cluster.command("check")
@click.argument("files", nargs=-1, required=True, type=click.Path(dir_okay=False, path_type=Path), metavar="FILE...")
def check_cluster(files):
    """What is wrong with files for `ray up`, with RayJobs or with SLURM scripts; nothing is started.

    Ray's own schema, and what that lets pass: versions that differ, drivers without a place, a store that nodes do not share,
    placeholders that were left.
    """
    from studies.engine.cluster_check import check

    problems = [problem for file in files for problem in check(file)]
    for problem in problems:
        click.echo(problem, err=True)
    if problems:
        sys.exit(1)
    click.echo("nothing wrong")


@cluster.command(context_settings={"ignore_unknown_options": True})
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("arguments", nargs=-1, required=True, type=click.UNPROCESSED, metavar="STUDY [OPTION OF RUN]...")
def submit(file, arguments):
    """Have the head of a cluster that `ray up FILE` has started run a study, as a Ray job that outlives this machine.

    What follows FILE is what would follow `diffseg run`; data and store are named as the nodes see them.
    """
    from studies.engine.submission import submit as submit_job

    job = submit_job(file, arguments, click.echo)
    click.echo(
        f"{job} runs on the cluster: `ray exec {file} 'ray job logs -f {job}'` follows it, `ray job stop {job}` ends it"
    )


@main.group()
def data():
    """Data sets."""


@data.command()
@click.argument("name")
@click.argument("root", type=click.Path(file_okay=False))
@settings_argument
@click.option(
    "--sheet", type=click.Path(dir_okay=False), help="Where to draw the contact sheet.  [default: NAME.png, here]"
)
@json_option
def check(name, root, settings, sheet, as_json):
    """What is found at ROOT for the data set NAME: images, sizes, foreground, and every file that cannot be used.

    Draws a contact sheet of images with the contours of their masks, one colour a rater.
    """
    from diffseg.config import Config
    from diffseg.data.check import check as check_data
    from studies.definition.shipped import data_settings

    leaves = data_settings(name) | {"data.name": name} | dict(parse_leaf(text) for text in settings)
    with _progress(f"reading {name}") as on_progress:
        found = check_data(Config().with_leaves(leaves).data, Path(root), on_progress)
    _show(found.to_dict(), as_json, lambda _: str(found))
    if found.sheet:
        path = Path(sheet or f"{name}.png")
        try:
            found.sheet.save(path)
        except (OSError, ValueError) as error:
            raise UserError(
                f"the contact sheet cannot be written to {path} ({error}): give another with --sheet"
            ) from None
        click.echo(path, err=True)
    sys.exit(1 if found.problems else 0)


@contextlib.contextmanager
def _progress(what: str):
    """A progress bar on the terminal's error output: what it yields is told how many of how many are done."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    console = Console(stderr=True)
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _wanted(
    source: str, settings, store: str, roots: dict, name: str | None, experiments: tuple[str, ...], extend: bool, search
):
    """The study asked for, checked against the one of that name in the store, and its ledger."""
    from studies.definition.changes import check_against_stored
    from studies.definition.reading import read_study
    from studies.definition.shipped import is_study_source
    from studies.store.ledger import Ledger

    leaves = dict(parse_leaf(text) for text in settings)
    command = shlex.join(["diffseg", *sys.argv[1:]])
    search = {key: value for key, value in search.items() if value is not None}
    if "objective" in search:
        search["objective"] = search["objective"].split(",")
    if not is_study_source(source):
        found, ledger = _stored(source, store)
        if leaves or roots or name or experiments or search:
            raise UserError(
                f"{source} is a study in the store and goes on as it is: "
                "leave out --data, --name, --experiment, options of searches and settings, or give its TOML file"
            )
        return found, ledger
    ledger = Ledger(store, name or Path(source).stem)
    definition = ledger.usable_definition()
    roots = _merge_roots(ledger, definition, roots)
    return check_against_stored(
        read_study(source, roots, leaves, name, command, experiments, search), definition, extend
    ), ledger


def _merge_roots(ledger, definition: dict | None, roots: dict[str, str]) -> dict[str, str]:
    """The stored definition's roots of data sets, and those given now over them.

    The place of a data set is no part of a trial: trials that have ended do not run again for another root, and a warning
    says so.
    """
    before = (definition or {}).get("roots", {})
    for name in sorted(name for name, root in roots.items() if before.get(name, root) != root):
        if any(row["dataset"] == name for row in ledger.last_rows(["dataset"])):
            click.echo(
                f"warning: data set {name} of study {ledger.study} was at {before[name]} and is now at {roots[name]}; results "
                "that are there are kept: if these are other images, give the study another --name or --store",
                err=True,
            )
    return before | roots


def _resources(study, placement: dict, concurrency: int | None = None):
    """What a trial gets, and how many run side by side: the command line's word, or else the search's."""
    from studies.engine.resources import Resources

    return Resources(**placement, concurrency=concurrency or (study.search and study.search.concurrency))


def _fingerprint_of(dataset: str, settings, store: str, roots: dict):
    """(the trial that the data set's fingerprint would weigh, the data set's root by name, the fingerprint's ledger)."""
    from studies.search.fingerprints import build_weighted
    from studies.store.ledger import Ledger

    ledger = Ledger(store, f"fingerprint-{dataset}")
    known = _merge_roots(ledger, ledger.usable_definition(), roots)
    config = build_weighted(dataset, known, dict(parse_leaf(text) for text in settings))
    return config, {name: root for name, root in known.items() if name == dataset}, ledger


def _stored(study: str, store: str):
    from studies.definition.study import stored_study

    ledger = _ledger(study, store)
    return stored_study(study, ledger.definition()), ledger


def _ledger(study: str, store: str):
    from studies.store.ledger import open_ledger

    return open_ledger(store, study)


def _beside(ledger, name: str) -> Path:
    """Where a file made of a study goes: into its folder, or if that is behind a URI, here."""
    return ledger.folder.local / name if ledger.folder.local else Path(f"{ledger.study}-{name}")


def _finish(study, ledger, finished: bool, with_report: bool) -> None:
    from studies.store.state import count_statuses, trial_states

    if not finished:
        click.echo(f"stopped; the same command goes on from the last checkpoints ({ledger.root})", err=True)
        sys.exit(STOPPED)
    if with_report:
        from analysis.report import write

        click.echo(write([ledger], _beside(ledger, "report.html")))
    failed = count_statuses(trial_states(study, ledger))["failed"]
    if failed:
        click.echo(
            f"{failed} of {study.requested_trials} trials failed: `diffseg status {study.name}` names them, "
            f"`diffseg retry {study.name}` runs them again",
            err=True,
        )
        sys.exit(FAILED_TRIALS)


def _show(value, as_json: bool, render) -> None:
    if as_json:
        click.echo(json.dumps(value, indent=1, default=str))
        return
    from rich.console import Console

    console, found = Console(highlight=False), render(value)
    if not console.is_terminal:
        console.width = TABLE_WIDTH
    console.print(found, soft_wrap=isinstance(found, str))
