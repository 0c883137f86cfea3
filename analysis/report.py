"""The report: one HTML file from the ledger, which opens offline and from which no request leaves."""

import base64
import datetime
import json
from pathlib import Path

import altair as alt
import jinja2
import pandas as pd
import vl_convert

from analysis import charts, comparison, tables
from analysis.tables import NAMES, Tables
from analysis.text import records
from diffseg.errors import UserError
from studies.ledger import Ledger
from studies.search import proposals

PICTURES = {"image": "image", "truth": "truth", "mean": "mean", "sd": "standard deviation"}


def write(ledgers: list[Ledger], path: Path) -> Path:
    """Write the report of one or more studies. Raises UserError if none of their trials has ended."""
    found = tables.load(ledgers)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("analysis", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("report.html.j2").render(
        studies=[ledger.study for ledger in ledgers],
        summary=_summary(found, ledgers),
        table1=records(tables.table1(found)),
        figures=_figures(found),
        agreements=records(tables.agreements(tables.errors(found, ["e2", "e3"], "mask_error"))),
        half_maxima=records(tables.half_maxima(tables.errors(found, ["e3"], "mask_error"))),
        fingerprints=_fingerprints(found),
        examples=_examples(found.examples),
        pictures=PICTURES,
        searches=records(tables.searches(ledgers)),
        comparison=records(comparison.compared(found, comparison.names(ledgers))),
        metrics=comparison.NAMES,
        failed=records(found.failed),
        provenance=_provenance(found, ledgers),
        javascript=vl_convert.javascript_bundle().replace("</script", "<\\/script"),
        now=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(page)
    return temporary.replace(path)


def _figures(found: Tables) -> dict[str, str | None]:
    """Vega-Lite specifications by name, as JSON that cannot end the script element it stands in."""
    made = {
        chart.__name__: chart(found)
        for chart in (
            charts.mask_errors,
            charts.losses,
            charts.fingerprints,
            charts.fingerprint_weights,
            charts.effective_weights,
            charts.learning_curves,
            charts.reliability,
        )
    }
    return {
        name: chart and json.dumps(_styled(chart).to_dict()).replace("<", "\\u003c") for name, chart in made.items()
    }


def _fingerprints(found: Tables) -> list[dict]:
    """What the squared error's fingerprint of each data set says."""
    rows = []
    for row in tables.fingerprints(found):
        if row["fingerprint"].kind == "mask-error":
            try:
                words = " ".join(row["fingerprint"].words())
            except UserError as error:
                words = f"Nothing can be told: {error}."
            rows.append({"dataset": row["dataset"], "series": row["series"], "words": words})
    return rows


def _styled(chart: alt.TopLevelMixin) -> alt.TopLevelMixin:
    return (
        chart.configure_view(stroke="#ccc")
        .configure_axis(grid=True, gridColor="#eee", labelFontSize=11, titleFontSize=12)
        .configure_legend(orient="bottom", labelLimit=400, columns=2, symbolStrokeWidth=2)
        .configure_line(strokeWidth=2)
    )


def _summary(found: Tables, ledgers: list[Ledger]) -> dict:
    definitions = [ledger.definition() or {} for ledger in ledgers]
    asked = sum(len(each.get("trials", {})) for each in definitions)
    asked += sum(bool(one.config and not one.config.data.held_out) for ledger in ledgers for one in proposals(ledger))
    return {
        "asked": asked,
        "complete": len(found.trials),
        "failed": len(found.failed),
        "missing": max(0, asked - len(found.trials) - len(found.failed)),
        "experiments": [NAMES[name] for name in sorted(set(found.trials["experiment"]))],
        "datasets": sorted(set(found.trials["dataset"])),
        "networks": sorted(set(found.trials["network"])),
        "seeds": found.trials["seed"].nunique(),
        "hours": float(found.trials["seconds"].sum()) / 3600,
        "devices": sorted(set(found.trials["device"])),
    }


def _examples(examples: pd.DataFrame) -> list[dict]:
    """Per data set and image: the image, its truth, and mean and standard deviation of E1 and of each variant of E2."""
    if examples.empty:
        return []
    examples = examples[examples["seed"] == examples["seed"].min()]
    examples = examples.assign(src=examples["png"].map(_data_uri))
    grids = []
    for dataset, rows in examples.groupby("dataset", sort=True):
        columns = sorted(set(rows["series"]))
        lines = []
        for image, of_image in rows.groupby("image", sort=True):
            pictures = {(row.series, row.kind): row.src for row in of_image.itertuples()}
            first = of_image["series"].iloc[0]
            lines.append(
                {
                    "image": image,
                    "given": [(kind, pictures.get((first, kind))) for kind in ("image", "truth")],
                    "found": [
                        (series, kind, pictures.get((series, kind))) for series in columns for kind in ("mean", "sd")
                    ],
                }
            )
        grids.append({"dataset": dataset, "series": columns, "rows": lines})
    return grids


def _provenance(found: Tables, ledgers: list[Ledger]) -> dict:
    versions: dict[str, set] = {}
    for text in found.trials["versions"]:
        for package, version in json.loads(text).items():
            versions.setdefault(package, set()).add(version)
    commits = {
        f"{row.git_commit[:12]}{' (changed since)' if row.dirty else ''}"
        for row in found.trials.itertuples()
        if row.git_commit
    }
    return {
        "commands": [command for ledger in ledgers if (command := (ledger.definition() or {}).get("command"))],
        "versions": {package: ", ".join(sorted(values)) for package, values in versions.items()},
        "commits": sorted(commits),
        "hosts": sorted(set(found.trials["host"])),
        "trials": records(
            found.trials[
                ["trial", "dataset", "data_digest", "train_images", "test_images", "parameters", "seconds", "device"]
            ]
        ),
    }


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
