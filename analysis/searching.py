"""Charts of searches: what was tried, what came of it, and which settings matter.

Each takes Tables and returns None if there is no search, or nothing of one to draw. Values are of the held-out images.
"""

import warnings

import altair as alt
import pandas as pd

from analysis import tables as t
from analysis.charts import COLOURS, DASHES, SHAPES, WIDTHS
from analysis.searches import Searched, searched
from analysis.tables import Tables
from studies.store.tables import METRICS

UNSET = -0.12  # where parallel coordinates show a setting that a proposal does not have
BEST = 5  # configurations whose effective weight is drawn
STATUSES = ["complete", "pruned", "failed", "refused", "running"]
LARGE = 30  # importances tell little of fewer trials


def optimisation(tables: Tables) -> alt.VConcatChart | None:
    """The first objective of every proposal and the best so far, over the proposals and over the hours they took."""
    found = searched(tables.ledgers)
    rows = _long(found)
    if rows.empty:
        return None
    rows = rows[rows["value"].notna()]
    larger = rows["objective"].map(METRICS)
    group = rows.groupby(["search", "objective"], sort=False)["value"]
    rows = rows.assign(best=group.cummax().where(larger, group.cummin()))
    rows = rows[rows["objective"] == rows.groupby("search")["objective"].transform("first")]
    kind = _scale("status", STATUSES, rows["status"])
    tooltip = [
        "number",
        "source",
        "status",
        alt.Tooltip("value", format=".4f"),
        alt.Tooltip("best", format=".4f"),
        "words",
    ]

    def panel(x: str, title: str):
        base = alt.Chart(rows).encode(x=alt.X(f"{x}:Q", title=title), tooltip=tooltip)
        value = alt.Y("value:Q", title=", ".join(dict.fromkeys(rows["objective"])), scale=alt.Scale(zero=False))
        points = base.mark_point(filled=True, size=55).encode(y=value, **kind)
        line = base.mark_line(interpolate="step-after", color="#555").encode(y="best:Q")
        return _faceted(alt.layer(line, points), rows, 180)

    return alt.vconcat(panel("number", "proposal"), panel("hours", "hours of computing, one after the other"))


def parallel_coordinates(tables: Tables) -> alt.VConcatChart | None:
    """A line a proposal over the settings that were varied, from least to greatest; below the axis, those it does not have."""
    panels = []
    for one in searched(tables.ledgers):
        frame, objective = one.frame[one.frame["rank"].notna()], one.search.objective[0]
        if frame.empty or len(one.parameters) < 2:
            continue
        rows = []
        for name in one.parameters:
            place = _places(frame[name]) if name in frame else pd.Series(UNSET, index=frame.index)
            text = frame[name].map(_text) if name in frame else "not set"
            rows.append(frame.assign(setting=_short(name), place=place, value=text))
        rows = pd.concat(rows)[["number", "setting", "place", "value", objective, "words"]]
        better = "descending" if not METRICS[objective] else "ascending"
        lines = alt.Chart(rows).mark_line(point=True, opacity=0.6)
        lines = lines.encode(
            x=alt.X(
                "setting:N", title=None, sort=[_short(name) for name in one.parameters], axis=alt.Axis(labelAngle=-30)
            ),
            y=alt.Y("place:Q", title="least to greatest; not set below", scale=alt.Scale(domain=[UNSET, 1]), axis=None),
            color=alt.Color(f"{objective}:Q", scale=alt.Scale(scheme="viridis", reverse=better == "descending")),
            detail="number:N",
            tooltip=["number", "setting", "value", alt.Tooltip(objective, format=".4f"), "words"],
        )
        panels.append(lines.properties(width=max(300, 110 * len(one.parameters)), height=220, title=one.title))
    return alt.vconcat(*panels).resolve_scale(color="independent") if panels else None


def importances(tables: Tables) -> alt.FacetChart | None:
    """How much of being among the best tenth each setting explains (PED-ANOVA, Watanabe et al., 2023), conditional ones, too."""
    rows = [
        {
            "search": one.title,
            "setting": _short(name),
            "importance": value,
            "trials": int(one.frame["rank"].notna().sum()),
        }
        for one in searched(tables.ledgers)
        for name, value in _importances(one).items()
    ]
    if not rows:
        return None
    rows = pd.DataFrame(rows)
    bars = alt.Chart(rows).mark_bar(color=COLOURS[0])
    bars = bars.encode(
        x=alt.X("importance:Q", title="share of the importance", axis=alt.Axis(format="%")),
        y=alt.Y("setting:N", title=None, sort="-x"),
        tooltip=["setting", alt.Tooltip("importance", format=".1%"), "trials"],
    )
    return _faceted(bars, rows, 18 * rows["setting"].nunique()).resolve_scale(y="independent")


def slices(tables: Tables) -> alt.VConcatChart | None:
    """The first objective over each setting alone; the Pareto front, or the best, is marked."""
    panels = []
    for one in searched(tables.ledgers):
        objective = one.search.objective[0]
        frame = one.frame[one.frame["rank"].notna()]
        small = []
        for name in one.parameters:
            if name not in frame or frame[name].notna().sum() < 2:
                continue
            kept = frame[frame[name].notna()].assign(best=frame["rank"] == 0)
            numeric = kept[name].map(lambda value: isinstance(value, int | float) and not isinstance(value, bool)).all()
            kept = kept.assign(setting=kept[name] if numeric else kept[name].map(_text))
            log = numeric and kept["setting"].min() > 0 and kept["setting"].max() > 10 * kept["setting"].min()
            x = alt.X(
                "setting:Q" if numeric else "setting:N",
                title=_short(name),
                axis=alt.Axis(labelOverlap="greedy", labelSeparation=4, tickCount=4) if numeric else alt.Undefined,
                scale=(alt.Scale(type="log") if log else alt.Scale(zero=False)) if numeric else alt.Undefined,
            )
            points = alt.Chart(kept[["number", "setting", "best", objective, "words"]]).mark_point(filled=True, size=50)
            small.append(
                points.encode(
                    x=x,
                    y=alt.Y(f"{objective}:Q", scale=alt.Scale(zero=False)),
                    color=alt.Color("best:N", legend=None, scale=alt.Scale(domain=[False, True], range=COLOURS[:2])),
                    shape=alt.Shape("best:N", legend=None, scale=alt.Scale(domain=[False, True], range=SHAPES[:2])),
                    tooltip=["number", alt.Tooltip(objective, format=".4f"), "words"],
                ).properties(width=190, height=150)
            )
        if small:
            panels.append(alt.concat(*small, columns=3, title=one.title))
    return alt.vconcat(*panels) if panels else None


def pareto_fronts(tables: Tables) -> alt.FacetChart | None:
    """The first two objectives against each other. The front is a line; a click or a drawn box keeps what it holds bright."""
    found = [one for one in searched(tables.ledgers) if len(one.search.objective) > 1]
    panels = []
    for one in found:
        first, second = one.search.objective[:2]
        frame = one.frame[one.frame["rank"].notna()]
        if frame.empty:
            continue
        frame = frame.assign(front=frame["rank"] == 0)[["number", "source", "front", first, second, "words"]]
        chosen = alt.selection_interval()
        x, y = (alt.X(f"{first}:Q", scale=alt.Scale(zero=False)), alt.Y(f"{second}:Q", scale=alt.Scale(zero=False)))
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
        panels.append(alt.layer(line, points).properties(width=320, height=260, title=one.title))
    return alt.hconcat(*panels) if panels else None


def pruning(tables: Tables) -> alt.FacetChart | None:
    """What trials had reached at the rungs, where they were compared; those that ended there, and those that went on."""
    frames = []
    for one in searched(tables.ledgers):
        status = {each.proposal.trial: (each.status, each.proposal.number) for each in one.tried}
        rungs = pd.DataFrame(one.ledger.records("rungs", one.name))
        if len(rungs):
            rungs = rungs[(rungs["metric"] == one.search.objective[0]) & rungs["trial"].isin(status)]
            told = [status[trial] for trial in rungs["trial"]]
            rungs = rungs.assign(status=[each[0] for each in told], number=[each[1] for each in told], search=one.title)
            frames.append(rungs)
    if not frames or all(frame.empty for frame in frames):
        return None
    rows = pd.concat(frames)
    lines = alt.Chart(rows).mark_line(point=alt.OverlayMarkDef(filled=True, size=45))
    lines = lines.encode(
        x=alt.X("step:Q", title="step"),
        y=alt.Y("value:Q", title=", ".join(dict.fromkeys(rows["metric"])), scale=alt.Scale(zero=False)),
        detail="trial:N",
        tooltip=["number", "status", "step", alt.Tooltip("value", format=".4f")],
        **{key: value for key, value in _scale("status", STATUSES, rows["status"]).items() if key != "shape"},
    )
    return _faceted(lines, rows, 180)


def best_weights(tables: Tables) -> alt.FacetChart | None:
    """The effective weight W(λ) of the best configurations over the data set's fingerprint (gray), each of its greatest 1."""
    profiles = {group["dataset"]: one for group, one in t.measured_fingerprints(tables) if one.kind == "mask-error"}
    frames = []
    for one in searched(tables.ledgers):
        best = one.frame[one.frame["rank"].notna()].sort_values(["rank", "number"]).head(BEST)
        names = {
            each.proposal.trial: each.proposal.number
            for each in one.tried
            if each.proposal.number in set(best["number"])
        }
        rows = one.ledger.read("timesteps", ["trial", "step", "log_snr", "weight"], list(names)).to_pandas()
        rows = rows[(rows["weight"] > 0) & (rows["weight"] < float("inf"))]
        rows = rows[rows["step"] == rows.groupby("trial")["step"].transform("max")]
        if rows.empty:
            continue
        share = rows["weight"] / rows.groupby("trial")["weight"].transform("max")
        words = best.set_index("number")["words"]
        rows = rows.assign(share=share, number=rows["trial"].map(names), search=one.title, profile=None)
        frames.append(rows.assign(words=rows["number"].map(words), line=rows["number"].map("proposal {}".format)))
        if profile := profiles.get(one.start.data.name):
            frames.append(
                pd.DataFrame(
                    {"log_snr": profile.log_snr, "profile": profile.weight, "search": one.title, "line": "fingerprint"}
                )
            )
    if not frames:
        return None
    rows = pd.concat(frames, ignore_index=True)
    lines = [name for name in dict.fromkeys(rows["line"]) if name != "fingerprint"]
    x = alt.X("log_snr:Q", title="log-SNR (noise at the left)")
    area = alt.Chart(rows).mark_area(color="#999", opacity=0.35).encode(x=x, y="profile:Q")
    curves = alt.Chart(rows).mark_line()
    curves = curves.encode(
        x=x,
        y=alt.Y("share:Q", title="share of the greatest"),
        tooltip=["line", alt.Tooltip("log_snr", format=".2f"), alt.Tooltip("share", format=".3f"), "words"],
        **{key: value for key, value in _scale("line", lines, rows["line"]).items() if key != "shape"},
    )
    return _faceted(alt.layer(area, curves), rows, 200)


def _faceted(chart, rows: pd.DataFrame, height: int) -> alt.FacetChart:
    """A panel for each search, as wide as so many can be."""
    panels = chart.properties(width=WIDTHS.get(rows["search"].nunique(), 250), height=height)
    return panels.facet(facet=alt.Facet("search:N", title=None), columns=3)


def _long(found: list[Searched]) -> pd.DataFrame:
    """A row a proposal and objective: objective, value, and what `Searched.frame` says of the proposal."""
    columns = ["search", "number", "source", "status", "hours", "words"]
    frames = [
        one.frame[columns].assign(objective=name, value=one.frame[name])
        for one in found
        for name in one.search.objective
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _importances(one: Searched) -> dict[str, float]:
    """By setting; none of fewer than LARGE trials, of which they tell little."""
    import optuna

    from studies.search.sampling import to_optuna

    study = optuna.create_study(directions=["minimize"] * len(one.search.objective))
    study.add_trials(to_optuna(one.search, one.start, one.tried))
    if sum(trial.state == optuna.trial.TrialState.COMPLETE for trial in study.trials) < LARGE:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return optuna.importance.get_param_importances(study)


def _scale(name: str, domain: list[str], present: pd.Series) -> dict:
    """Colour, dash and shape of the values of a column, the same for each whatever others there are."""
    kept = [value for value in domain if value in set(present)]
    kinds = {"color": (alt.Color, COLOURS), "strokeDash": (alt.StrokeDash, DASHES), "shape": (alt.Shape, SHAPES)}
    return {
        key: kind(
            f"{name}:N", title=None, scale=alt.Scale(domain=kept, range=[_look(looks, domain.index(v)) for v in kept])
        )
        for key, (kind, looks) in kinds.items()
    }


def _look(looks: list, place: int):
    return looks[place % len(looks)]


def _places(values: pd.Series) -> pd.Series:
    """Where values stand between the least and the greatest, 0 to 1, by their order; UNSET for those that are missing."""
    order = {
        value: place for place, value in enumerate(sorted(values.dropna().unique(), key=lambda v: (str(type(v)), v)))
    }
    return values.map(lambda value: UNSET if _missing(value) else order[value] / max(1, len(order) - 1))


def _missing(value) -> bool:
    return value is None or value != value  # NaN


def _text(value) -> str:
    return "not set" if _missing(value) else f"{value:.3g}" if isinstance(value, float) else str(value)


def _short(name: str) -> str:
    return name.removeprefix("diffusion.").replace("_", " ")
