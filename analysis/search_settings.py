"""Charts that show which settings matter in a search: parallel coordinates, importances, and slices.

Each function takes Tables and returns None if there is no search, or nothing to draw of one. Values are of the held-out images.
"""

import warnings
from typing import Any

import altair as alt
import pandas as pd

from analysis.searches import SearchHistory
from analysis.style import COLOURS, SHAPES, facet_by_search
from analysis.tables import Tables
from analysis.verdicts import signed
from diffseg.evaluation.registry import METRICS
from search_spaces.trial import encode

UNSET = -0.12  # where parallel coordinates show a setting that a proposal does not have
LARGE = 30  # trials from which importances are meaningful


def parallel_coordinates(tables: Tables) -> alt.VConcatChart | None:
    """Draw a line for each proposal over the varied settings, from least to greatest, the best one thick.

    Settings that a proposal does not have are below the axis.
    """
    panels = []
    for one in tables.searches:
        frame, objective = one.frame[one.frame["rank"].notna()], one.search.objective[0]
        if frame.empty or len(one.parameters) < 2:
            continue
        names = [_short(name) for name in one.parameters]
        rows = pd.concat([_place_on_axis(frame, name) for name in one.parameters])
        rows = rows[["number", "setting", "place", "value", objective, "words"]]
        larger = METRICS[objective].larger_is_better
        rows = rows.assign(best=rows["number"] == frame.sort_values(["rank", "number"])["number"].iloc[0])
        x = alt.X("setting:N", title=None, sort=names, axis=alt.Axis(labelAngle=-25, labelLimit=160, domain=False))
        y = alt.Y("place:Q", scale=alt.Scale(domain=[UNSET, 1]), axis=None)
        colour = alt.Color(
            f"{objective}:Q",
            title=METRICS[objective].title,
            scale=alt.Scale(scheme="viridis", reverse=not larger),
            legend=alt.Legend(type="gradient", direction="horizontal", gradientLength=200),
        )
        base = alt.Chart(rows).encode(
            x=x,
            y=y,
            color=colour,
            detail="number:N",
            tooltip=["number", "setting", "value", alt.Tooltip(objective, format=".4f"), "words"],
        )
        lines = base.mark_line(point=True, strokeWidth=1.2, opacity=0.6)
        best = base.transform_filter("datum.best").mark_line(strokeWidth=5)
        lines = alt.layer(_axes(rows, x, y), lines, best, _ends(rows, x, y))
        panels.append(lines.properties(width=max(300, 110 * len(one.parameters)), height=220, title=one.title))
    return alt.vconcat(*panels).resolve_scale(color="independent") if panels else None


def _axes(rows: pd.DataFrame, x: alt.X, y: alt.Y) -> Any:
    """Draw an upright axis for each setting."""
    ends = pd.DataFrame({"setting": rows["setting"].unique(), "place": 0.0, "end": 1.0})
    return alt.Chart(ends).mark_rule(color="#888").encode(x=x, y=y, y2="end:Q")


def _ends(rows: pd.DataFrame, x: alt.X, y: alt.Y) -> Any:
    """Write the least and the greatest value of each setting at the ends of its axis."""
    known = rows[rows["place"] >= 0].sort_values("place")
    ends = known.groupby("setting").agg(least=("value", "first"), greatest=("value", "last")).reset_index()
    ends = ends.melt("setting", value_name="text").assign(
        place=lambda frame: (frame["variable"] == "greatest").astype(float)
    )
    texts = alt.Chart(ends).encode(x=x, y=y, text="text:N")
    style: dict[str, Any] = {"fontSize": 12, "color": "currentColor", "limit": 110}
    top = texts.transform_filter("datum.place == 1").mark_text(dy=-10, **style)
    return alt.layer(top, texts.transform_filter("datum.place == 0").mark_text(dy=12, **style))


def importances(tables: Tables) -> alt.FacetChart | None:
    """Draw how much each setting explains of being among the best tenth, conditional settings included.

    PED-ANOVA (Watanabe et al., 2023).
    """
    found = [
        {
            "search": one.title,
            "setting": _short(name),
            "importance": value,
            "trials": int(one.frame["rank"].notna().sum()),
        }
        for one in tables.searches
        for name, value in _compute_importances(one).items()
    ]
    if not found:
        return None
    rows = pd.DataFrame(found)
    bars = alt.Chart(rows).mark_bar(color=COLOURS[0])
    bars = bars.encode(
        x=alt.X("importance:Q", title="share of the importance", axis=alt.Axis(format="%")),
        y=alt.Y("setting:N", title=None, sort="-x"),
        tooltip=["setting", alt.Tooltip("importance", format=".1%"), "trials"],
    )
    panels = facet_by_search(bars, rows, 18 * rows["setting"].nunique())
    independent: alt.FacetChart = panels.resolve_scale(y="independent")
    return independent


def slices(tables: Tables) -> alt.VConcatChart | None:
    """Draw the first objective over each setting alone; the Pareto front, or the best, is marked."""
    panels = []
    for one in tables.searches:
        frame = one.frame[one.frame["rank"].notna()]
        small = [
            _slice(frame, name, one.search.objective[0])
            for name in one.parameters
            if name in frame and frame[name].notna().sum() > 1
        ]
        if small:
            panels.append(alt.concat(*small, columns=3, title=one.title))
    return alt.vconcat(*panels) if panels else None


def _slice(frame: pd.DataFrame, name: str, objective: str) -> Any:
    """Draw an objective over one setting; numbers that span more than a decade get a log scale."""
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
    points = points.encode(
        x=x,
        y=alt.Y(f"{objective}:Q", title=METRICS[objective].title, scale=alt.Scale(zero=False)),
        color=alt.Color("best:N", legend=None, scale=alt.Scale(domain=[False, True], range=COLOURS[:2])),
        shape=alt.Shape("best:N", legend=None, scale=alt.Scale(domain=[False, True], range=SHAPES[:2])),
        tooltip=["number", alt.Tooltip(objective, format=".4f"), "words"],
    )
    return points.properties(width=190, height=150)


def _compute_importances(one: SearchHistory) -> dict[str, float]:
    """Return the importance of each setting; nothing for fewer than LARGE complete trials."""
    import optuna

    from studies.search.sampling import Sampler

    study = optuna.create_study(directions=["minimize"] * len(one.search.objective))
    study.add_trials(Sampler(one.search, one.name, one.start).to_optuna(one.tried))
    if sum(trial.state == optuna.trial.TrialState.COMPLETE for trial in study.trials) < LARGE:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return optuna.importance.get_param_importances(study)


def _place_on_axis(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the proposals with a setting's name, its place on its axis, and its value in words."""
    place = _places(frame[name]) if name in frame else pd.Series(UNSET, index=frame.index)
    text = frame[name].map(_text) if name in frame else "not set"
    return frame.assign(setting=_short(name), place=place, value=text)


def _places(values: pd.Series) -> pd.Series:
    """Return the places of values between the least and the greatest, 0 to 1, by their order; UNSET for missing values.

    Numbers are ordered by their value, and after them all else by its JSON: lists and tables have no order of their own.
    """
    known = values.map(encode)
    order = {value: place for place, value in enumerate(sorted(known.dropna().unique(), key=_sort_key))}
    return known.map(lambda value: UNSET if _is_missing(value) else order[value] / max(1, len(order) - 1))


def _sort_key(value: Any) -> tuple[bool, float, str]:
    text = isinstance(value, str)
    return text, 0.0 if text else float(value), str(value)


def _is_missing(value: Any) -> bool:
    """Return whether a setting is None or NaN."""
    return value is None or value != value


def _text(value: Any) -> str:
    """Return the value of a setting in words."""
    return "not set" if _is_missing(value) else signed(value, ".3g") if isinstance(value, float) else str(value)


def _short(name: str) -> str:
    """Return the name of a setting without its section."""
    return name.removeprefix("diffusion.").replace("_", " ")
