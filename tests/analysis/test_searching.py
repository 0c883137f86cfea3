"""Charts of searches, and searches in other programs, from ledgers whose numbers are known."""

import urllib.request
from threading import Thread

import numpy as np
import optuna
import pandas as pd
import pytest
from click.testing import CliRunner
from test_comparison import write_trial
from test_report import browser, check_page, opened, values  # noqa: F401
from test_search import START, carry_out, planted, study_of

from analysis import comparison, report_tables, search_charts, search_settings, searches, tables
from analysis.answers import answer_questions
from analysis.configurations import name_configurations
from analysis.difference_chart import differences
from analysis.export import write_event_files, write_journal
from analysis.figures import draw_figures
from analysis.report import write_report
from studies.commands.program import main
from studies.definition.study import Study
from studies.search.history import list_begun
from studies.store.ledger import Ledger

BUDGET = 40


@pytest.fixture(scope="module", params=[("iou",), ("iou", "ece")], ids=["one objective", "two objectives"])
def ledger(request, tmp_path_factory):
    """A search of the schedule, some of whose trials were pruned at step 100."""
    study = study_of(budget=BUDGET, confirm="2x3", objective=list(request.param), sampler="random", pruning=3)
    ledger = Ledger(str(tmp_path_factory.mktemp("search")), "searched")
    ledger.define(study.definition())
    carry_out(study, ledger)
    name = study.starts[0].name
    for proposal, stage in list_begun(study, ledger):
        trial = study.trial_of(proposal, stage)
        write_trial(ledger, trial, planted(trial.config)["iou"] - planted(START)["iou"], proposal.seed)
        if trial.rungs:
            row = {"search": name, "trial": trial.name, "metric": "iou"}
            for step in (50, 100):
                ledger.record("rungs", [row | {"step": step, "value": 0.001 * step * proposal.number}])
        if trial.rungs and proposal.number % 8 == 7:
            ledger.write(trial.name, 3, {"trials": [{"status": "pruned", "seconds": 5.0, "steps": 100}]})
    return ledger


@pytest.fixture(scope="module")
def found(ledger):
    return tables.load([ledger])


@pytest.fixture(scope="module")
def one(found):
    (one,) = found.searches
    return one


def test_proposals_are_in_the_order_of_their_numbers(one):
    frame = one.frame
    assert frame["number"].tolist() == list(range(BUDGET))
    assert set(frame.loc[frame["number"] % 8 == 7, "status"]) == {"pruned"}
    assert frame["iou"].isna().sum() == BUDGET // 8 == frame["rank"].isna().sum()
    assert frame["hours"].is_monotonic_increasing
    best = frame.loc[frame["rank"] == 0, "iou"]
    assert best.max() == frame["iou"].max()
    assert "diffusion.schedule" in one.parameters
    assert "diffusion.loss" not in one.parameters  # only the initial points have it


def test_the_best_so_far_never_falls(found, one):
    rows = pd.DataFrame(values(search_charts.optimisation(found)))
    for _, same in rows.groupby("objective"):
        same = same.drop_duplicates("number").sort_values("number")
        whole = same[same["status"] == "complete"]
        assert np.allclose(whole["best"], whole["value"].cummax())
        assert len(whole) == BUDGET - BUDGET // 8
        pruned = same[same["status"] == "pruned"]  # they stand at what they had reached when they were compared last
        assert np.allclose(pruned["value"], 0.1 * pruned["number"])
        assert pruned["best"].isna().all()
        assert set(same["start"].dropna()) == set(same.loc[same["number"] == 0, "value"])


def test_settings_that_a_proposal_lacks_are_below_the_axis(found, one):
    rows = pd.DataFrame(values(search_settings.parallel_coordinates(found)))
    spread = rows[rows["setting"] == "spread"]
    assert set(spread.loc[spread["value"] == "not set", "place"]) == {search_settings.UNSET}
    assert spread.loc[spread["value"] != "not set", "place"].between(0, 1).all()
    assert set(rows["setting"]) == {name.removeprefix("diffusion.").replace("_", " ") for name in one.parameters}


def test_settings_that_are_lists_none_or_of_several_types_are_drawn(tmp_path):
    space = {
        "network.multipliers": {"choices": [[1, 2], [1, 2, 2], [1]]},
        "training.clip": {"choices": [None, 10, 0.5, 1]},
        "diffusion.self_conditioning": {"choices": [True, False]},
        "inference.curve": {"choices": [[], [[0.5, 0.5]]]},
        "diffusion.target": {"choices": ["x0", "v"]},
    }
    study, ledger = study_of(space=space, budget=16, sampler="random"), Ledger(str(tmp_path), "searched")
    ledger.define(study.definition())
    carry_out(study, ledger)
    found = tables.load([ledger])
    rows = pd.DataFrame(values(search_settings.parallel_coordinates(found)))
    rows = rows.dropna(subset="value")
    places = {name: dict(zip(own["value"], own["place"], strict=True)) for name, own in rows.groupby("setting")}
    clips = places["training.clip"]
    assert clips.pop("not set") == search_settings.UNSET
    assert sorted(clips, key=clips.get) == ["0.5", "1", "10"]
    assert set(places["network.multipliers"].values()) >= {0, 0.5, 1}
    assert search_settings.slices(found) is not None
    assert any(figure.chart for figure in draw_figures(found.shown()))
    write_journal(found, tmp_path / "journal")


def test_a_setting_that_decides_nothing_is_the_least_important(found):
    rows = pd.DataFrame(values(search_settings.importances(found)))
    assert rows["importance"].sum() == pytest.approx(1)
    ordered = rows.groupby("setting")["importance"].mean().sort_values().index
    assert ordered[0] == "temperature"  # the planted objective does not depend on it


def test_slices_show_each_setting_with_its_own_values(found, one):
    spec = search_settings.slices(found).to_dict()
    (panel,) = spec["vconcat"]
    titles = [small["encoding"]["x"]["title"] for small in panel["concat"]]
    assert "input scale" in titles
    (scale,) = (small["encoding"]["x"] for small in panel["concat"] if small["encoding"]["x"]["title"] == "input scale")
    assert scale["type"] == "quantitative"


def test_the_front_is_drawn_for_several_objectives_only(found, one):
    chart = search_charts.pareto_fronts(found)
    if len(one.search.objective) == 1:
        assert chart is None
        return
    rows = pd.DataFrame(values(chart)).drop_duplicates("number").set_index("number")
    front = rows[rows["front"]]
    for _, row in front.iterrows():
        assert not ((rows["iou"] > row["iou"]) & (rows["ece"] < row["ece"])).any()


def test_rungs_show_which_trials_were_pruned(found):
    rows = pd.DataFrame(values(search_charts.pruning(found)))
    assert len(rows) == 2 * BUDGET
    assert set(rows.loc[rows["number"] % 8 == 7, "status"]) == {"pruned"}
    assert np.allclose(rows["value"], 0.001 * rows["step"] * rows["number"])


def test_a_single_rung_has_no_chart(found, monkeypatch):
    rungs = search_charts._rungs
    monkeypatch.setattr(search_charts, "_rungs", lambda one: rungs(one).query("step == 50"))
    assert search_charts.pruning(found) is None


def test_the_best_proposal_is_emphasised_and_axes_have_their_ends(found, one):
    rows = pd.DataFrame(values(search_settings.parallel_coordinates(found)))
    best = one.frame.sort_values(["rank", "number"])["number"].iloc[0]
    assert set(rows.loc[rows["best"].eq(True), "number"]) == {best}
    ends = rows.dropna(subset=["text"])
    assert set(ends["setting"]) == {name.removeprefix("diffusion.").replace("_", " ") for name in one.parameters}
    assert set(ends["place"]) == {0, 1}


def test_a_proposals_settings_are_those_that_differ(found):
    shown = report_tables.tabulate_searches(found)
    assert len(shown["searches"]) == report_tables.PROPOSALS
    (fixed,) = shown["fixed"].values()
    for row in shown["searches"]:
        assert not set(fixed.split(", ")) & set(row["settings"].split(", "))


def test_the_answer_names_the_searchs_best(found, one):
    (answer,) = answer_questions(found, found.table1())
    (said,) = (sentence for sentence in answer.sentences if sentence.startswith("A search of"))
    best = one.frame.sort_values(["rank", "number"]).iloc[0]
    assert f"proposal {best['number']} " in said
    assert f"IoU {best['iou']:.3f}" in said


def test_weights_are_drawn_for_the_best_proposals(found, one):
    rows = pd.DataFrame(values(search_charts.best_weights(found)))
    best = one.frame[one.frame["rank"].notna()].sort_values(["rank", "number"]).head(search_charts.BEST)
    assert set(rows["number"].dropna()) == set(best["number"])
    assert rows.groupby("number")["share"].max().eq(1).all()


def test_costs_are_summed_by_status(found):
    costs = searches.sum_costs(found.searches).set_index("status")
    assert costs.loc["pruned", "trials"] == BUDGET // 8
    assert costs.loc["pruned", "hours"] == pytest.approx(BUDGET // 8 * 5 / 3600)


@pytest.mark.sampled(1)
def test_the_report_shows_searches_and_differences(found, ledger, tmp_path):
    against = comparison.compare_configurations(found, name_configurations([ledger]))
    rows = pd.DataFrame(values(differences(against)))
    wanted = against[~against["baseline"] & against["difference_low"].notna()]
    assert len(rows) == len(wanted) > 0
    page = write_report([ledger], tmp_path / "report.html").read_text()
    for name in (
        "optimisation",
        "parallel_coordinates",
        "importances",
        "slices",
        "pruning",
        "best_weights",
        "differences",
    ):
        assert f'id="{name}"' in page


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_the_searchs_page_in_a_browser(found, ledger, tmp_path, browser, width):  # noqa: F811
    path, page = write_report([ledger], tmp_path / "report.html"), browser(width)
    opened(page, path)
    drawn = [figure for figure in draw_figures(found.shown()) if figure.chart]
    check_page(page, path, width, len(drawn) + 1)  # and the differences


@pytest.mark.slow
def test_a_report_reads_its_searches_once(ledger, tmp_path, monkeypatch):
    calls, load_searches = [], tables.load_searches
    monkeypatch.setattr(tables, "load_searches", lambda ledgers: calls.append(ledgers) or load_searches(ledgers))
    write_report([ledger], tmp_path / "report.html")
    assert len(calls) == 1


def test_a_study_without_a_search_has_no_such_charts(tmp_path):
    study, ledger = Study("plain", (), {}), Ledger(str(tmp_path), "plain")
    ledger.define(study.definition())
    empty = tables.Tables((ledger,), pd.DataFrame(), pd.DataFrame())
    for draw in (
        search_charts.optimisation,
        search_settings.parallel_coordinates,
        search_settings.importances,
        search_settings.slices,
    ):
        assert draw(empty) is None
    assert searches.sum_costs(empty.searches).empty
    assert differences(pd.DataFrame()) is None


class TestOtherPrograms:
    def test_the_journal_has_the_searchs_numbers(self, found, one, tmp_path):
        storage = write_journal(found, tmp_path / "dashboard.journal")
        names = {summary.study_name for summary in optuna.get_all_study_summaries(storage)}
        (name,) = (name for name in names if ": search, " in name)
        study = optuna.load_study(study_name=name, storage=storage)
        assert study.metric_names == list(one.search.objective)
        assert len(study.trials) == BUDGET
        complete = [trial for trial in study.trials if trial.state == optuna.trial.TrialState.COMPLETE]
        measured = one.frame[one.frame["rank"].notna()]
        assert [trial.values[0] for trial in complete] == pytest.approx(measured["iou"].tolist())
        assert max(trial.values[0] for trial in study.best_trials) == pytest.approx(measured["iou"].max())
        assert "diffusion.schedule" in complete[-1].params
        others = [name for name in names if ": search, " not in name]
        assert len(others) == 1  # the confirmed trials

    def test_it_is_served_on_loopback(self, found, ledger, monkeypatch):
        """Serve the dashboard once, without its endless loop."""
        import optuna_dashboard

        served = {}

        def serve(storage, host, port):
            from wsgiref.simple_server import make_server

            with make_server(host, 0, optuna_dashboard.wsgi(storage)) as server:
                Thread(target=server.handle_request, daemon=True).start()
                address = f"http://{host}:{server.server_port}/api/studies"
                served["text"], served["host"] = urllib.request.urlopen(address).read().decode(), host

        monkeypatch.setattr(optuna_dashboard, "run_server", serve)
        store = ledger.root.rpartition("/")[0]
        result = CliRunner().invoke(main, ["dashboard", "searched", "--store", store])
        assert result.exit_code == 0, result.output
        assert "searched: search" in served["text"]
        assert served["host"] == "127.0.0.1"

    def test_a_taken_port_is_refused_in_one_sentence(self, ledger, monkeypatch):
        import socket

        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            store = ledger.root.rpartition("/")[0]
            result = CliRunner().invoke(main, ["dashboard", "searched", "--port", str(port), "--store", store])
        assert result.exit_code == 2
        assert f"port {port} cannot be used" in result.output

    def test_tensorboards_files_hold_the_curves(self, found, ledger, tmp_path):
        from tensorboardX.event_file_writer import EventFileWriter  # noqa: F401  # the package that wrote them

        store = ledger.root.rpartition("/")[0]
        result = CliRunner().invoke(main, ["dashboard", "searched", "--store", store, "--tensorboard", str(tmp_path)])
        assert result.exit_code == 0, result.output
        folders = sorted(path.name for path in (tmp_path / "searched").iterdir())
        assert folders == sorted(found.trials["trial"])
        assert write_event_files(found, tmp_path / "again") == len(folders)
        assert all(next(iter(path.glob("events.*"))).stat().st_size > 100 for path in (tmp_path / "searched").iterdir())
