"""The tables of the report, as rows for its template."""

import json
import shlex
from typing import Any

import pandas as pd

from analysis import comparison, paper, searches, uncertainty
from analysis.class_tables import tabulate_classes
from analysis.findings import check_findings
from analysis.frames import records
from analysis.guarantees import tabulate_risks
from analysis.noise_levels import errors_over_t, find_agreement, find_half_losses, fit_class_fingerprints
from analysis.segmentations import in_percent, tabulate_studies
from analysis.series import EXPERIMENTS
from analysis.tables import Tables
from diffseg.errors import UserError
from diffseg.fingerprint.classes import describe_order, summarise
from studies.search.proposals import describe_settings, read_proposals
from studies.store.ledger import Ledger

ROWS = 100  # of a table of trials, at most
PROPOSALS = 15  # of each search


def tabulate_segmentations(found: Tables, shown: Tables, table1: pd.DataFrame) -> dict[str, Any]:
    """Return the tables of findings, of E1 against E2 (from `comparison.against_e1`), of studies, and of uncertainty."""
    studies = comparison.against_first(tabulate_studies(found), found) if len(found.ledgers) > 1 else pd.DataFrame()
    return {
        "findings": records(check_findings(found)),
        "table1": records(in_percent(paper.add_paper_numbers(table1))) if len(table1) else [],
        "left_out": len(found.table1()) - len(table1),
        "classes": records(tabulate_classes(shown)),
        "compared": records(in_percent(studies)),
        "aurc": records(uncertainty.aurc(shown)),
        "risks": records(tabulate_risks(found)),
        "left_out_images": records(uncertainty.count_left_out(shown)),
        "empty_masks": records(uncertainty.count_empty(shown)),
    }


def tabulate_noise_levels(shown: Tables) -> dict[str, Any]:
    """Return where E2 and E3 agree, where E3's errors are half of their maxima, and what fingerprints mean, also by class."""
    words = []
    for group, one in shown.measured_fingerprints:
        if one.kind == "mask-error":
            try:
                words.append(group | {"words": " ".join(one.describe()).replace(" -", " \u2212")})
            except UserError as error:
                words.append(group | {"words": f"Its meaning cannot be derived: {error}."})
    return {
        "agreements": records(find_agreement(errors_over_t(shown, ["e2", "e3"], "mask_error"))),
        "half_losses": records(find_half_losses(shown.measured_fingerprints)),
        "only_images": _lacks_mask_losses(shown),
        "fingerprints": words,
        "class_fingerprints": [
            {**group, "order": describe_order(found), "classes": {name: summarise(one) for name, one in found.items()}}
            for group, found in fit_class_fingerprints(shown.class_timesteps)
        ],
    }


def _lacks_mask_losses(shown: Tables) -> bool:
    """Return whether there are losses of images (E4), but none of masks, since no E2 has the ε-target."""
    trials = shown.trials
    masks = (trials["experiment"] == "e2") & (trials["config_diffusion_target"] == "epsilon")
    return bool((trials["experiment"] == "e4").any() and not masks.any())


def tabulate_searches(found: Tables) -> dict[str, Any]:
    """Return the best proposals of each search, the number of the others, and the costs of the searches.

    `settings` are those in which the search's proposals differ; `fixed`, by search, those that are the same in all. `notes`, by
    search, say what it took from other studies and why it has ended early.
    """
    ranked = searches.rank_proposals(found.searches)
    best = ranked.groupby(["study", "search"], sort=False).head(PROPOSALS) if len(ranked) else ranked
    fixed = {}
    for one in found.searches:
        own = {each.proposal.number: each.proposal.settings for each in one.tried}
        differing = set(one.parameters)
        same = {name: value for each in own.values() for name, value in each.items() if name not in differing}
        fixed[one.name] = describe_settings(same) if same else ""
        here = (best["study"] == one.ledger.study) & (best["search"] == one.name)
        words = {
            number: describe_settings({name: value for name, value in each.items() if name in differing})
            for number, each in own.items()
        }
        best.loc[here, "settings"] = best.loc[here, "number"].map(words)
    return {
        "searches": records(best),
        "fixed": fixed,
        "notes": {one.name: [*filter(None, (one.taken, one.end))] for one in found.searches},
        "more_searched": len(ranked) - len(best),
        "costs": records(searches.sum_costs(found.searches)),
    }


def list_failures(found: Tables) -> dict[str, Any]:
    """Return the first failed trials, and the number of the others."""
    return {"failed": records(found.failed.head(ROWS)), "more_failed": max(0, len(found.failed) - ROWS)}


def summarise_trials(found: Tables, ledgers: list[Ledger]) -> dict[str, Any]:
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


def trace_provenance(found: Tables, ledgers: list[Ledger]) -> dict[str, Any]:
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
    searched = searches.sum_costs(found.searches)
    columns = ["trial", "dataset", "data_digest", "train_images", "test_images", "parameters", "seconds", "device"]
    return {
        "commands": [command for ledger in ledgers if (command := (ledger.definition() or {}).get("command"))],
        "versions": {package: ", ".join(sorted(values)) for package, values in versions.items()},
        "commits": sorted(commits),
        "hosts": _distinct(trials["host"]),
        "devices": _distinct(trials["device"]),
        "gpu_hours": float(trials["gpu_seconds"].sum()) / 3600 + _sum(searched, "gpu_hours"),
        "memory": float(trials["peak_memory_bytes"].max()) / 2**30,
        "searched": int(_sum(searched, "trials")),
        "searched_hours": _sum(searched, "hours"),
        "report": f"diffseg report {' '.join(ledger.study for ledger in ledgers)} --store {shlex.quote(ledgers[0].store)}",
        "more": max(0, len(trials) - ROWS),
        "trials": records(trials.head(ROWS)[columns]),
    }


def _sum(costs: pd.DataFrame, column: str) -> float:
    """Return the sum of a column of what searches took, which may have no rows."""
    return float(costs[column].sum()) if len(costs) else 0.0


def _distinct(values: pd.Series) -> list[Any]:
    """Return the distinct values, sorted, without missing ones."""
    return sorted(set(values.dropna()))
