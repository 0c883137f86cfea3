"""The results object of notebooks: tables with units, sentences for unknown names, charts as methods, and CSV files."""

import csv

import numpy as np
import pandas as pd
import pytest
from test_report import configs, ledger_of
from test_search import START, carry_out, planted, study_of

import analysis
from analysis.figures import CHARTS, OPTIONAL, draw_figure
from analysis.results import COMPLETIONS
from analysis.views import VIEWS, write_csv, write_view
from diffseg.config import Config
from diffseg.errors import UserError
from studies.store.ledger import Ledger


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """E1 to E4 on two data sets, and a search."""
    place = tmp_path_factory.mktemp("results")
    ledger = ledger_of(place, configs(), [Config().with_leaves({"experiment": "e3", "seed": 9}).resolved()])
    search = study_of(budget=5)
    definition = ledger.definition()
    ledger.define(definition | {key: search.definition()[key] for key in ("search", "starts")})
    carry_out(search, ledger, dataset="searched", experiment="e2", network="ensemdiff", scored_on="held-out", seed=0)
    return analysis.open("study", store=place)


def test_the_store_is_the_programs(results, monkeypatch):
    monkeypatch.setenv("DIFFSEG_STORE", results.ledgers[0].store)
    assert len(analysis.open("study").trials) == len(results.trials)
    with pytest.raises(UserError, match="there is no study 'other'"):
        analysis.open("other")


def test_differences_are_those_of_table_1_with_intervals(results):
    found, table1 = results.differences(), results.table1()
    assert list(found["metric"]) == ["iou"] * 4 + ["ece"] * 4
    for metric in ("iou", "ece"):
        rows = found[found["metric"] == metric]
        assert np.allclose(rows["difference"], table1[f"{metric}_difference"])
        assert np.allclose(rows["e2"] - rows["e1"], rows["difference"])
        assert (rows["low"] <= rows["difference"] + 1e-9).all()
    assert set(found["unit"]) == {"fraction"}
    assert set(found["seeds"]) == {3}
    (first, *_) = results.differences(["dice"]).to_dict("records")
    assert (first["metric"], first["images"]) == ("dice", 40)


def test_any_configuration_is_a_baseline(results):
    against_e1 = results.compare("e1", ["iou"])
    assert results.compare(metrics=["iou"]).equals(
        against_e1
    )  # E1, where neither the study nor a confirmed search has one
    assert against_e1.groupby("dataset")["baseline"].sum().tolist() == [1, 1]
    assert sorted(against_e1["difference"].dropna().round(3)) == [0.05, 0.05, 0.07, 0.07]
    against_x0 = results.compare("E2 diffusion, x0", ["iou"])
    assert set(against_x0.loc[against_x0["baseline"], "experiment"]) == {"e2"}
    with pytest.raises(UserError, match=r"'e2' is the name of several configurations: give one of E2 diffusion, "):
        results.compare("e2")
    with pytest.raises(
        UserError, match=r"no configuration 'E1 fed-forward' to compare with: did you mean E1 feed-forward\?"
    ):
        results.compare("E1 fed-forward")


def test_proposals_are_the_best_first(results, tmp_path):
    found = results.proposals()
    assert len(found) == 5
    assert set(found["scored_on"]) == {"held-out"}
    assert found["iou"].is_monotonic_decreasing
    assert found["iou"].max() >= planted(START)["iou"]
    without = ledger_of(tmp_path, configs(("e1",), ("x0",)))
    empty = analysis.load(without.store, without.study).proposals()
    assert list(empty.columns) == list(found.columns)
    assert empty.empty


def test_shares_are_fractions_and_columns_have_units(results):
    assert results.table1()["iou_e1"].between(0, 1).all()
    for frame in (results.best(), results.table1(), results.differences(), results.compare("e1"), results.proposals()):
        assert set(frame.attrs["units"]) <= set(frame.columns)
    assert results.table1().attrs["units"]["iou_sd_e2"] == "fraction"
    assert results.best().attrs["units"]["seconds"] == "s"
    assert results.best().attrs["units"]["hd95"] == "mm or px"
    assert "seed" not in results.best().attrs["units"]


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda found: found.best("eec"), r"there is no metric 'eec': did you mean ece"),
        (lambda found: found.pareto(("iou", "brierr")), r"there is no metric 'brierr': did you mean brier\?"),
        (lambda found: found.best("hd95"), r"no trial of study has measured hd95: measured are iou, dice, "),
        (lambda found: found.differences(["IOU"]), r"there is no metric 'IOU': allowed are iou, dice, "),
        (lambda found: found.compare("e1", ["dise"]), r"there is no metric 'dise': did you mean dice"),
        (lambda found: found.frame("image"), r"the ledger has no table 'image': did you mean images\?"),
        (lambda found: found.dataset("curve"), r"the ledger has no table 'curve': did you mean curves\?"),
        (lambda found: found.frame("curves", ["steps"]), r"the table curves has no column 'steps': did you mean step\?"),
        (lambda found: found.log("e1-big"), r"there is no trial 'e1-big' in study: "),
        (lambda found: found.plot.pareto_fronts(), r"study has nothing to draw here: pareto_fronts needs a search with"),
    ],
)  # fmt: skip
def test_what_there_is_not_is_a_sentence(results, call, sentence):
    with pytest.raises(UserError, match=sentence):
        call(results)


@pytest.mark.slow
def test_every_chart_of_the_report_is_a_method(results):
    assert dir(results.plot) == sorted(draw.__name__ for draw in (*CHARTS, *OPTIONAL))
    drawn = 0
    for name in dir(results.plot):
        draw = getattr(results.plot, name)
        assert draw.__doc__.startswith("Draw the report's chart. ")
        if draw_figure(name, results, results.shown()).chart is None:
            with pytest.raises(UserError, match=f"study has nothing to draw here: {name} needs "):
                draw()
        else:
            draw().to_dict()
            drawn += 1
    assert drawn >= 15
    with pytest.raises(AttributeError, match=r"there is no chart 'mask_error': did you mean mask_errors"):
        results.plot.mask_error  # noqa: B018
    assert "mask_errors" in repr(results.plot)
    assert repr(results.plot.mask_errors).startswith("mask_errors(): Mask error over t")


def test_trials_are_selected_by_any_column(results):
    some = results.select(dataset="big", experiment="e2")
    assert set(some.trials["dataset"]) == {"big"}
    assert set(some.images["experiment"]) == {"e2"}
    assert len(some.best()) == 6
    assert len(some.proposals()) == 5  # searches are of the whole study
    some.plot.ensembles()
    with pytest.raises(UserError, match="no trial has the dataset 'bg': did you mean big"):
        results.select(dataset="bg")
    with pytest.raises(UserError, match=r"trials have no column 'datasets': did you mean dataset"):
        results.select(datasets="big")


def test_completion_offers_short_names_that_all_exist(results):
    assert dir(results) == sorted(COMPLETIONS)
    for name in dir(results):
        assert not name.startswith("_")
        assert hasattr(results, name)


def test_a_notebook_shows_a_summary(results):
    shown, text = results._repr_html_(), repr(results)
    for words in (
        "30 (6 of E1 feed-forward, 12 of E2 diffusion, ",
        "big, small",
        "0, 1, 2",
        "iou, dice, ece, brier, nll",
    ):
        assert words in text
        assert words in shown
    assert "5 proposals" in text
    other = Ledger(results.ledgers[0].store, "study")
    hidden = analysis.load(other.store, other.study)
    hidden.trials["dataset"] = "<script>"
    assert "<script>" not in hidden._repr_html_()


def test_views_are_written_exactly(results, tmp_path):
    written = write_csv(results, tmp_path / "tables")
    names = {path.stem for path in written}
    assert (
        {"trials", "failed", "proposals", "table1", "differences", "images", "curves", "timesteps"}
        <= names
        <= set(VIEWS)
    )
    assert sorted(path.name for path in (tmp_path / "tables").iterdir()) == sorted(path.name for path in written)
    table1 = pd.read_csv(tmp_path / "tables" / "table1.csv")
    assert (table1["iou_e2"] == results.table1()["iou_e2"]).all()
    for name in ("trials", "images", "curves", "timesteps"):
        view = pd.read_csv(tmp_path / "tables" / f"{name}.csv")
        assert list(view.columns[:10]) == [
            "study", "dataset", "experiment", "network", "variant", "series", "seed", "trial", "role", "scored_on",
        ]  # fmt: skip
        assert set(view["role"]) == {"trial"}
        assert len(view) == written[tmp_path / "tables" / f"{name}.csv"]
    assert len(pd.read_csv(tmp_path / "tables" / "images.csv")) == len(results.images)


def test_cells_that_a_spreadsheet_would_run_get_an_apostrophe(tmp_path):
    texts = ["=1+1", "+1", "-1", "@a", "\ta", "\ra", "=a,b", "safe", "a=b", "e1-x"]
    write_view(pd.DataFrame({"name": texts, "value": -0.5, "=key": [None] * len(texts)}), tmp_path / "view.csv")
    with (tmp_path / "view.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["name", "value", "'=key"]
    assert [row[0] for row in rows] == [f"'{text}" if text[0] in "=+-@\t\r" else text for text in texts]
    assert {row[1] for row in rows} == {"-0.5"}


def test_a_folder_that_cannot_be_written_is_a_sentence(results, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_csv(results, tmp_path / "file" / "below")
