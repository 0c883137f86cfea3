"""Charts of searches: what every proposal reached, Pareto fronts, pruning, and the effective weights of the best.

Each function takes Tables and returns None if there is no search, or nothing to draw of one. Values are of the held-out images.
analysis/search_settings.py draws the charts that show which settings matter.
"""

from typing import Any

import altair as alt
import pandas as pd

from analysis.searches import SearchHistory
from analysis.style import COLOURS, SHAPES, encode_values, facet_by_search
from analysis.tables import Tables
from diffseg.evaluation.registry import METRICS
from studies.store.classes import of_class

BEST = 5  # configurations whose effective weight is drawn
STATUSES = ["complete", "pruned", "failed", "refused", "running"]


def optimisation(tables: Tables) -> alt.FacetChart | None:
    """Draw the first objective of every proposal, the best so far, and dashed what the search began with.

    Pruned proposals stand at what they had reached when they were compared last.
    """
    rows = _by_objective(tables.searches)
    if rows.empty:
        return None
    rows = rows[rows["objective"] == rows.groupby("search")["objective"].transform("first")]
    for one in tables.searches:
        last = _rungs(one).sort_values("step").drop_duplicates("number", keep="last").set_index("number")["value"]
        ended = (rows["search"] == one.title) & (rows["status"] == "pruned")
        rows.loc[ended, "value"] = rows.loc[ended, "number"].map(last)
    rows = rows[rows["value"].notna()]
    larger = rows["objective"].map(lambda name: METRICS[name].larger_is_better)
    whole = rows["value"].where(rows["status"] == "complete")
    group = whole.groupby([rows["search"], rows["objective"]], sort=False)
    rows = rows.assign(best=group.cummax().where(larger, group.cummin()), start=whole.where(rows["number"] == 0))
    kind = encode_values("status", STATUSES, rows["status"])
    numbers = [alt.Tooltip("value", format=".4f"), alt.Tooltip("best", format=".4f")]
    tooltip: list[Any] = ["number", "source", "status", *numbers, alt.Tooltip("hours", format=".2f"), "words"]
    whole_numbers = alt.Axis(format="d", tickMinStep=1)
    base = alt.Chart(rows).encode(x=alt.X("number:Q", title="proposal", axis=whole_numbers), tooltip=tooltip)
    title = ", ".join(METRICS[name].title for name in dict.fromkeys(rows["objective"]))
    value = alt.Y("value:Q", title=title, scale=alt.Scale(zero=False))
    points = base.mark_point(filled=True, size=60, opacity=1).encode(y=value, color=kind["color"], shape=kind["shape"])
    line = (
        base.mark_line(interpolate="step-after", color="#888")
        .transform_filter("isValid(datum.best)")
        .encode(y="best:Q")
    )
    start = alt.Chart(rows).mark_rule(color="#888", strokeDash=[4, 3]).encode(y="min(start):Q")
    return facet_by_search(alt.layer(start, line, points), rows, 200)


def pareto_fronts(tables: Tables) -> alt.HConcatChart | None:
    """Draw the first two objectives against each other, with the front as a line. A drawn box keeps its points bright."""
    panels = []
    for one in tables.searches:
        frame = one.frame[one.frame["rank"].notna()]
        if len(one.search.objective) > 1 and not frame.empty:
            panels.append(_front(frame, *one.search.objective[:2]).properties(width=320, height=260, title=one.title))
    return alt.hconcat(*panels) if panels else None


def _front(proposals: pd.DataFrame, first: str, second: str) -> Any:
    """Draw proposals by two objectives."""
    frame = proposals.assign(front=proposals["rank"] == 0)[["number", "source", "front", first, second, "words"]]
    chosen = alt.selection_interval()
    x, y = alt.X(f"{first}:Q", scale=alt.Scale(zero=False)), alt.Y(f"{second}:Q", scale=alt.Scale(zero=False))
    points = alt.Chart(frame).mark_point(filled=True, size=70).add_params(chosen)
    points = points.encode(
        x=x,
        y=y,
        color=alt.Color("front:N", title="on the front", scale=alt.Scale(domain=[False, True], range=COLOURS[:2])),
        shape=alt.Shape("front:N", title="on the front", scale=alt.Scale(domain=[False, True], range=SHAPES[:2])),
        opacity=alt.condition(chosen, alt.value(1.0), alt.value(0.2)),
        tooltip=["number", "source", alt.Tooltip(first, format=".4f"), alt.Tooltip(second, format=".4f"), "words"],
    )
    line = alt.Chart(frame[frame["front"]]).mark_line(color="#888").encode(x=x, y=y)
    return alt.layer(line, points)


def pruning(tables: Tables) -> alt.FacetChart | None:
    """Draw what trials had reached at the rungs, with those that were pruned there and those that continued.

    None if all were compared at a single rung: `optimisation` shows that.
    """
    frames = [rungs for one in tables.searches if len(rungs := _rungs(one)) and rungs["step"].nunique() > 1]
    if not frames:
        return None
    rows = pd.concat(frames)
    look = encode_values("status", STATUSES, rows["status"])
    lines = alt.Chart(rows).mark_line(point=alt.OverlayMarkDef(filled=True, size=45))
    lines = lines.encode(
        x=alt.X("step:Q", title="step"),
        y=alt.Y("value:Q", title=", ".join(dict.fromkeys(rows["metric"])), scale=alt.Scale(zero=False)),
        detail="trial:N",
        tooltip=["number", "status", "step", alt.Tooltip("value", format=".4f")],
        color=look["color"],
        strokeDash=look["strokeDash"],
    )
    return facet_by_search(lines, rows, 180)


def _rungs(one: SearchHistory) -> pd.DataFrame:
    """Return what a search's trials had reached where they were compared: number, trial, status, step, metric, value, search."""
    states = {each.proposal.trial: (each.status, each.proposal.number) for each in one.tried}
    rungs = pd.DataFrame(one.ledger.records("rungs", one.name), columns=["trial", "step", "metric", "image", "value"])
    rungs = rungs[(rungs["metric"] == one.search.objective[0]) & rungs["image"].isna() & rungs["trial"].isin(states)]
    own = [states[trial] for trial in rungs["trial"]]
    return rungs.assign(status=[each[0] for each in own], number=[each[1] for each in own], search=one.title)


def best_weights(tables: Tables) -> alt.FacetChart | None:
    """Draw the effective weight W(λ) of the best configurations over the data set's fingerprint (gray), the greatest of each 1."""
    profiles = {group["dataset"]: one for group, one in tables.measured_fingerprints if one.kind == "mask-error"}
    frames = []
    for one in tables.searches:
        weights = _weights_of_best(one)
        if weights.empty:
            continue
        frames.append(weights)
        if profile := profiles.get(one.start.data.name):
            values = {"log_snr": profile.log_snr, "profile": profile.weight}
            frames.append(pd.DataFrame(values | {"search": one.title, "line": "fingerprint"}))
    if not frames:
        return None
    rows = pd.concat(frames, ignore_index=True)
    lines = [name for name in dict.fromkeys(rows["line"]) if name != "fingerprint"]
    look = encode_values("line", lines, rows["line"])
    x = alt.X("log_snr:Q", title="log-SNR (noise at the left)")
    area = alt.Chart(rows).mark_area(color="#999", opacity=0.35).encode(x=x, y="profile:Q")
    curves = alt.Chart(rows).mark_line()
    curves = curves.encode(
        x=x,
        y=alt.Y("share:Q", title="share of the greatest"),
        tooltip=["line", alt.Tooltip("log_snr", format=".2f"), alt.Tooltip("share", format=".3f"), "words"],
        color=look["color"],
        strokeDash=look["strokeDash"],
    )
    return facet_by_search(alt.layer(area, curves), rows, 200)


def _weights_of_best(one: SearchHistory) -> pd.DataFrame:
    """Return the effective weights over the log-SNR of a search's best proposals, at the end of their training."""
    best = one.frame[one.frame["rank"].notna()].sort_values(["rank", "number"]).head(BEST)
    chosen = set(best["number"])
    numbers = {each.proposal.trial or "": each.proposal.number for each in one.tried if each.proposal.number in chosen}
    columns = ["trial", "step", "log_snr", "weight"]
    rows = one.ledger.read("timesteps", columns, list(numbers), of_class()).to_pandas()
    rows = rows[(rows["weight"] > 0) & (rows["weight"] < float("inf"))]
    rows = rows[rows["step"] == rows.groupby("trial")["step"].transform("max")]
    share = rows["weight"] / rows.groupby("trial")["weight"].transform("max")
    rows = rows.assign(share=share, number=rows["trial"].map(numbers), search=one.title, profile=None)
    words = rows["number"].map(best.set_index("number")["words"])
    return rows.assign(words=words, line=rows["number"].map("proposal {}".format))


def _by_objective(searches: list[SearchHistory]) -> pd.DataFrame:
    """Return a row for each proposal and objective: objective, value, and columns of SearchHistory.frame."""
    columns = ["search", "number", "source", "status", "hours", "words"]
    frames = [
        one.frame[columns].assign(objective=name, value=one.frame[name])
        for one in searches
        for name in one.search.objective
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
