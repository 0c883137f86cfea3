"""The report: one HTML file made from the ledgers, which opens offline and sends no request."""

import contextlib
import datetime
import json
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import vl_convert

from analysis import comparison, paper, searches, tables, uncertainty
from analysis.class_tables import tabulate_classes
from analysis.configurations import name_configurations
from analysis.figures import Figure, draw_figures, draw_optional_figures
from analysis.findings import check_findings
from analysis.frames import records
from analysis.noise_levels import errors_over_t, find_agreement, find_half_maxima, fit_class_fingerprints
from analysis.segmentations import in_percent, tabulate_studies
from analysis.series import EXPERIMENTS
from analysis.tables import Tables
from diffseg.errors import UserError
from diffseg.fingerprint.classes import describe_order, summarise
from studies.search.proposals import read_proposals
from studies.store.ledger import Ledger

ROWS = 100  # of a table of trials, at most
PROPOSALS = 15  # of each search


def write_report(ledgers: list[Ledger], path: Path, png: Path | None = None) -> Path:
    """Write the report of one or more studies to a file, and return its path.

    With png, also write every chart into that folder. Raises UserError if none of the studies' trials has ended, or if a file
    cannot be written.
    """
    found = tables.load(ledgers)
    shown = found.shown()
    compared = comparison.compare_configurations(found, name_configurations(ledgers), comparison.LISTED)
    figures = draw_figures(shown) + draw_optional_figures(found, shown, compared)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("analysis", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("report.html.j2").render(
        studies=[ledger.study for ledger in ledgers],
        summary=_summarise(found, ledgers),
        figures={figure.name: figure for figure in figures},
        comparison=comparison.select_shown(records(compared)),
        metrics=comparison.NAMES,
        larger_is_better=comparison.LARGER_IS_BETTER,
        several_classes=bool(found.classes),
        javascript=_vega(),
        now=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        **_segmentation_tables(found, shown),
        **_noise_level_tables(shown),
        **_search_tables(found),
        **_failures(found),
        provenance=_trace(found, ledgers),
    )
    if png:
        _save_pictures(figures, png)
    return _write(page, path)


def _vega() -> str:
    """Return the JavaScript of Vega, as text that cannot end the script element that holds it."""
    bundle = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # its stub lacks the argument's default
    return bundle.replace("</script", "<\\/script")


def _segmentation_tables(found: Tables, shown: Tables) -> dict[str, Any]:
    """Return the tables of findings, of E1 against E2, of studies side by side, and of uncertainty."""
    table1 = shown.table1()
    studies = comparison.against_first(tabulate_studies(found), found) if len(found.ledgers) > 1 else pd.DataFrame()
    return {
        "findings": records(check_findings(shown)),
        "table1": records(in_percent(comparison.against_e1(paper.add_paper_numbers(table1), shown)))
        if len(table1)
        else [],
        "left_out": len(found.table1()) - len(table1),
        "classes": records(tabulate_classes(shown)),
        "compared": records(in_percent(studies)),
        "aurc": records(uncertainty.aurc(shown)),
        "left_out_images": records(uncertainty.count_left_out(shown)),
        "empty_masks": records(uncertainty.count_empty(shown)),
    }


def _noise_level_tables(shown: Tables) -> dict[str, Any]:
    """Return where E2 and E3 agree, where E3's errors are half of their maxima, and what fingerprints mean, also by class."""
    words = []
    for group, one in shown.measured_fingerprints:
        if one.kind == "mask-error":
            try:
                words.append(group | {"words": " ".join(one.describe())})
            except UserError as error:
                words.append(group | {"words": f"Its meaning cannot be derived: {error}."})
    return {
        "agreements": records(find_agreement(errors_over_t(shown, ["e2", "e3"], "mask_error"))),
        "half_maxima": records(find_half_maxima(errors_over_t(shown, ["e3"], "mask_error"))),
        "fingerprints": words,
        "class_fingerprints": [
            {**group, "order": describe_order(found), "classes": {name: summarise(one) for name, one in found.items()}}
            for group, found in fit_class_fingerprints(shown.class_timesteps)
        ],
    }


def _search_tables(found: Tables) -> dict[str, Any]:
    """Return the best proposals of each search, the number of the others, and the costs of the searches."""
    ranked = searches.rank_proposals(found.searches)
    best = ranked.groupby("search", sort=False).head(PROPOSALS) if len(ranked) else ranked
    return {
        "searches": records(best),
        "more_searched": len(ranked) - len(best),
        "costs": records(searches.sum_costs(found.searches)),
    }


def _failures(found: Tables) -> dict[str, Any]:
    """Return the first failed trials, and the number of the others."""
    return {"failed": records(found.failed.head(ROWS)), "more_failed": max(0, len(found.failed) - ROWS)}


def _summarise(found: Tables, ledgers: list[Ledger]) -> dict[str, Any]:
    """Return the numbers of trials, and the experiments, data sets, networks and devices of the complete ones."""
    trials = found.trials
    definitions = [ledger.definition() or {} for ledger in ledgers]
    asked = sum(len(each.get("trials", {})) for each in definitions)
    asked += sum(
        bool(one.config and not one.config.data.held_out) for ledger in ledgers for one in read_proposals(ledger)
    )
    return {
        "asked": asked,
        "complete": len(trials),
        "failed": len(found.failed),
        "missing": max(0, asked - len(trials) - len(found.failed)),
        "experiments": [EXPERIMENTS.get(name, name) for name in _distinct(trials["experiment"])],
        "datasets": _distinct(trials["dataset"]),
        "networks": _distinct(trials["network"]),
        "seeds": trials["seed"].nunique(),
        "hours": float(trials["seconds"].sum()) / 3600,
        "devices": _distinct(trials["device"]),
    }


def _trace(found: Tables, ledgers: list[Ledger]) -> dict[str, Any]:
    """Return the provenance: commands, versions, commits, hosts, devices, costs, and the first trials with their data."""
    trials = found.trials
    versions: dict[str, set[str]] = {}
    for text in trials["versions"].dropna():
        for package, version in json.loads(text).items():
            versions.setdefault(package, set()).add(version)
    commits = {
        f"{row.git_commit[:12]}{' (changed since)' if row.dirty else ''}"
        for row in trials.dropna(subset=["git_commit"]).itertuples()
    }
    columns = ["trial", "dataset", "data_digest", "train_images", "test_images", "parameters", "seconds", "device"]
    return {
        "commands": [command for ledger in ledgers if (command := (ledger.definition() or {}).get("command"))],
        "versions": {package: ", ".join(sorted(values)) for package, values in versions.items()},
        "commits": sorted(commits),
        "hosts": _distinct(trials["host"]),
        "devices": _distinct(trials["device"]),
        "gpu_hours": float(trials["gpu_seconds"].sum()) / 3600,
        "memory": float(trials["peak_memory_bytes"].max()) / 2**30,
        "report": f"diffseg report {' '.join(ledger.study for ledger in ledgers)}",
        "more": max(0, len(trials) - ROWS),
        "trials": records(trials.head(ROWS)[columns]),
    }


def _distinct(values: pd.Series) -> list[Any]:
    """Return the distinct values, sorted, without missing ones."""
    return sorted(set(values.dropna()))


def _save_pictures(figures: list[Figure], folder: Path) -> None:
    """Write every chart as a PNG. Raises UserError if the folder cannot be written to."""
    for figure in figures:
        if figure.chart:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                figure.chart.save(str(folder / f"{figure.name}.png"), scale_factor=2)
            except OSError as error:
                raise UserError(
                    f"the charts cannot be written to {folder} ({error}): give another place with --png DIR"
                ) from None


def _write(page: str, path: Path) -> Path:
    """Write the page in one step, so that no reader sees half of it. Raises UserError if it cannot be written."""
    temporary = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")
        return temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise UserError(
            f"the report cannot be written to {path} ({error}): give another place with --output FILE"
        ) from None
