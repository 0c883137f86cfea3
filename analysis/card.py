"""The model card of a trained network: one Markdown file made from the ledger, to be completed by its author."""

from collections.abc import Iterator
from pathlib import Path

from analysis import class_tables, group_dice, learning, markdown
from analysis.card_facts import (
    UNKNOWN,
    collect_facts,
    count,
    describe_commit,
    describe_groups,
    describe_seeds,
    describe_units,
    duration,
    list_settings,
    predict_command,
)
from analysis.card_limits import list_limits
from analysis.card_subject import Subject
from analysis.checklists import load_checklists
from analysis.comparison import LISTED, NAMES
from analysis.measurements import Sample
from analysis.uncertainty import pooled_calibration
from analysis.verdicts import signed
from analysis.writing import replacing
from diffseg.errors import UserError
from diffseg.evaluation.registry import DISTANCE, METRICS
from diffseg.nouns import noun, patients
from studies.store.classes import ALL

METRICS_SHOWN = [name for name in NAMES if name in LISTED and name not in learning.NAMES]
CALIBRATION = ("ece", "ece_top", "ace", "mce", "brier", "nll")
BINS = 10  # of the table `calibration`
Lines = Iterator[str]


def write_card(subject: Subject, path: Path) -> Path:
    """Write the card of a trial to a file, and return its path.

    Raises UserError if the file exists, since its author may have completed it, or if it cannot be written.
    """
    text = render_card(subject)
    try:
        if path.exists():
            raise UserError(f"{path} exists: remove it, or give another file with --output")
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
        return path
    except OSError as error:
        raise UserError(f"the card cannot be written to {path} ({error}): give another file with --output") from None


def render_card(subject: Subject) -> str:
    """Return the card as Markdown."""
    facts = collect_facts(subject)
    sections = {
        "What it is": _identify(subject, facts),
        "Data": _describe_data(subject, facts),
        "Configuration": _list_configuration(subject, facts),
        "Versions and hardware": _trace_provenance(subject, facts),
        "Results": _tabulate_results(subject),
        "Calibration": _tabulate_calibration(subject),
        "Limits": markdown.bullets(list_limits(subject)),
        "Checklists": (line for checklist in load_checklists() for line in checklist.fill(facts)),
    }
    lines = [f"# Model card: {markdown.escape(subject.trial)}", ""]
    lines += [f"Made by diffseg from the ledger of study {markdown.escape(subject.ledger.study)}.", ""]
    for title, section in sections.items():
        lines += [f"## {title}", "", *section]
    return "\n".join(lines)


def _identify(subject: Subject, facts: dict[str, str]) -> Lines:
    """Yield what the network is, what it takes, and the command that uses it."""
    network = subject.config.network
    yield from markdown.table(
        ("what", "value"),
        [
            ("method", facts["technology"]),
            ("network", f"{network.summary} ({network.citation})"),
            ("input", facts["input"]),
            ("preprocessing", facts["preprocessing"]),
            ("classes", facts["classes"]),
            ("output", facts["output"]),
            ("prediction", facts["ensemble"]),
        ],
    )
    if subject.has_network:
        yield from ("This command segments new images, pictures or NIfTI volumes:", "")
    else:
        yield from ("The store holds no weights of this trial. With them, this command segments new images:", "")
    yield from markdown.code_block("sh", predict_command(subject))


def _describe_data(subject: Subject, facts: dict[str, str]) -> Lines:
    """Yield the data set, its split, and the numbers of images and patients."""
    data, row = subject.config.data, subject.row
    share = f"{data.held_out:g} of the training images, part {data.fold}" if data.held_out else "none"
    raters = "several" if row["samples"] is not None else "one"
    yield from markdown.table(
        ("what", "value"),
        [
            ("data set", data.name),
            ("layout", data.layout),
            ("digest", row["data_digest"] or UNKNOWN),
            ("images used", facts["subsets"]),
            ("training images", count(row["train_images"])),
            (f"{row['scored_on']} images, which were scored", count(row["test_images"])),
            ("patients or volumes of training images", UNKNOWN),
            (f"patients or volumes of {row['scored_on']} images", describe_groups(subject)),
            ("split", facts["split"]),
            ("held out", share),
            ("classes", facts["classes"]),
            ("raters of an image", raters),
        ],
    )


def _list_configuration(subject: Subject, facts: dict[str, str]) -> Lines:
    """Yield the settings that differ from the defaults, and all settings below."""
    row = subject.row
    yield from markdown.table(
        ("what", "value"),
        [
            ("parameters", count(row["parameters"])),
            ("steps", count(row["steps"])),
            ("seed", describe_seeds(subject.config)),
            ("initialisation", facts["initialisation"]),
            ("training", f"reused from {row['network_of']}" if row["network_of"] else "its own"),
        ],
    )
    settings = list(list_settings(subject.config))
    differing = [one for one in settings if one[1] != one[2]]
    yield from ("Settings that differ from the defaults of this experiment and network:", "")
    yield from markdown.table(("setting", "value", "default"), differing)
    yield from markdown.collapse(
        f"All {len(settings)} settings", markdown.table(("setting", "value"), [one[:2] for one in settings])
    )


def _trace_provenance(subject: Subject, facts: dict[str, str]) -> Lines:
    """Yield versions, device, precision and times."""
    row = subject.row
    memory = row["peak_memory_bytes"]
    finished = row["finished"]
    rows = [
        ("software", facts["software"]),
        ("commit", describe_commit(row)),
        ("device", row["device"] or UNKNOWN),
        ("workers", count(row["workers"])),
        ("precision", row["precision"] or UNKNOWN),
        ("training steps ran", row["execution"] or UNKNOWN),
        ("training took", duration(row["train_seconds"])),
        ("evaluation took", duration(row["evaluate_seconds"])),
        ("the trial took", duration(row["seconds"])),
        ("peak memory of the GPU", f"{memory / 2**30:.1f} GiB" if memory else UNKNOWN),
        ("finished", f"{finished:%Y-%m-%d}" if finished else UNKNOWN),
    ]
    yield from markdown.table(("what", "value"), rows)


def _tabulate_results(subject: Subject) -> Lines:
    """Yield the listed metrics with intervals, of all classes and of each; where there are several seeds, also over these."""
    several = len(subject.seeds) > 1
    yield f"Of {subject.row['scored_on']} images. {describe_units(subject)}."
    if several:
        seeds = ", ".join(map(str, subject.seeds))
        yield f"“All seeds” are the trials that differ in their seed only ({seeds}). Their intervals cover seeds, too."
    yield ""
    rows = [
        row
        for name in (ALL, *subject.classes)
        for metric in (METRICS_SHOWN if name == ALL else class_tables.METRICS)
        if (row := _measure(subject, metric, name, several))
    ]
    columns = ("class", "metric", "mean", "95 % interval", "over")
    yield from markdown.table((*columns, *(("all seeds", "95 % interval", "over") if several else ())), rows)
    measured = [METRICS[name] for name in METRICS_SHOWN if name in METRICS and subject.sample(name)]
    definitions = [(metric.title, metric.definition) for metric in measured]
    yield from markdown.collapse("Definitions", markdown.table(("metric", "definition"), definitions))


def _measure(subject: Subject, metric: str, of_class: str, several: bool) -> tuple[str, ...] | None:
    """Return a row of the results; None if the trial has not measured the metric."""
    sample = subject.sample(metric, of_class)
    if sample is None:
        return None
    row = (of_class, _title(subject, metric), *_estimate(sample, metric))
    if not several:
        return row
    every = subject.sample_seeds(metric, of_class)
    return (*row, *(_estimate(every, metric) if every else ("–", "–", "–")))


def _title(subject: Subject, metric: str) -> str:
    """Return what a metric is called, with its unit unless it is a fraction."""
    if metric not in METRICS or (unit := METRICS[metric].unit) == "fraction":
        return NAMES[metric]
    return f"{NAMES[metric]} ({(subject.row['distance_unit'] or unit) if unit == DISTANCE else unit})"


def _estimate(sample: Sample, metric: str) -> tuple[str, str, str]:
    """Return the mean, its interval, and what both are over."""
    found, form = sample.estimate, _form(metric)
    limits = "–" if found.low != found.low else f"{signed(found.low, form)} to {signed(found.high, form)}"
    return signed(found.mean, form), limits, _describe_size(sample, metric)


def _form(metric: str) -> str:
    """Return the format of a metric's values."""
    return ".2f" if metric in METRICS and METRICS[metric].unit == DISTANCE else ".4f"


def _describe_size(sample: Sample, metric: str) -> str:
    """Return the numbers of images and of independent units that a mean is over."""
    if not sample.measured:
        return "one value of each trial"
    if metric == group_dice.NAME:
        return f"{sample.images:,} {patients(sample.images)}"
    images = f"{sample.images:,} {noun(sample.images, 'image')}"
    known = sample.groups.reindex(sample.values.columns)
    if not known.notna().any():
        return images
    kind = patients(sample.units) if known.notna().all() else "patients, volumes and images without one"
    return f"{images} of {sample.units:,} {kind}"


def _tabulate_calibration(subject: Subject) -> Lines:
    """Yield the errors of the probabilities, and the reliability of each bin over all pixels."""
    errors = [row for metric in CALIBRATION if (row := _measure(subject, metric, ALL, several=False))]
    yield from markdown.table(("class", "metric", "mean", "95 % interval", "over"), errors)
    found = pooled_calibration(subject.alone)
    if found.empty:
        yield from ("The ledger has no reliability of this trial.", "")
        return
    yield from (
        "Reliability over all pixels, each counted once for every rater, by bin of the predicted probability:",
        "",
    )
    rows = [
        (
            row["class"],
            f"{row['bin'] / BINS:.1f} to {(row['bin'] + 1) / BINS:.1f}",
            count(row["count"]),
            f"{row['confidence']:.4f}",
            f"{row['accuracy']:.4f}",
        )
        for _, own in found.groupby("class", sort=False)
        for row in own.sort_values("bin").to_dict("records")
    ]
    yield from markdown.table(("class", "probability", "pixels", "mean probability", "share of the class"), rows)
