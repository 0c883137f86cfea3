"""Roles of trials, what their metrics are scored on, and logs, in ledgers of this version and of earlier ones."""

import json
import shutil

import pandas as pd
import pytest
from click.testing import CliRunner
from finished import copy_store, trial_of
from test_report import attempt, configs
from test_search import carry_out, study_of

import analysis
from analysis.attempts import read_last_attempts
from diffseg.config import Config
from studies.commands.program import main
from studies.definition.changes import extend_study
from studies.definition.reading import read_study
from studies.definition.study import Study, stored_study
from studies.definition.trial import ROLES, Trial, merge_trials, trial_name
from studies.engine.request import build_request
from studies.engine.resources import Resources
from studies.engine.scheduler import Scheduler
from studies.store.compaction import compact
from studies.store.ledger import Ledger
from studies.store.tables import SCHEMAS

NEW = ("configuration", "role", "scored_on")  # columns that earlier versions did not write
GRID = """
experiments = ["e1", "e2"]
[all]
data.size = 16
[data.synthetic-large]
data.layout = "synthetic"
[variant.plain]
[variant.weighted]
diffusion.weighting = "fingerprint"
diffusion.target = "x0"
[variant.pooled]
inference.seeds = [0, 5]
"""


def grid(tmp_path, text=GRID) -> Study:
    (tmp_path / "grid.toml").write_text(text)
    return read_study(str(tmp_path / "grid.toml"), {}, {})


def roles(study: Study) -> set[tuple[str, int, bool, str]]:
    """Return experiment, seed, whether it is an ensemble, and role of each trial."""
    return {
        (trial.config.experiment, trial.config.seed, bool(trial.config.inference.seeds), trial.role)
        for trial in study.trials
    }


def test_what_a_study_needs_has_another_role_than_what_its_file_requests(tmp_path):
    found = roles(grid(tmp_path))
    assert {("e1", 0, False, "trial"), ("e1", 0, True, "trial"), ("e1", 5, False, "replicate")} <= found
    assert ("e3", 0, False, "fingerprint") in found
    assert {role for *_, role in found} == {"trial", "replicate", "fingerprint"}


def test_what_the_file_requests_itself_is_a_trial_wherever_it_is_needed(tmp_path):
    found = roles(grid(tmp_path, f"seeds = [0, 5]\n{GRID}"))
    assert ("e1", 5, False, "trial") in found
    assert "replicate" not in {role for *_, role in found}


def test_the_store_keeps_the_roles_and_an_extension_adds_to_them(tmp_path):
    study = grid(tmp_path)
    ledger = Ledger(str(tmp_path), "grid")
    ledger.define(study.definition())
    again = stored_study("grid", ledger.definition())
    assert roles(again) == roles(study)
    wider = grid(tmp_path, f"seeds = [0, 5]\n{GRID}")
    for old, new in ((again, wider), (wider, again)):
        assert ("e1", 5, False, "trial") in roles(extend_study(old, new))


def test_merged_trials_keep_their_order():
    a, b, c = (Trial(name, Config()) for name in "abc")
    needed = Trial("b", Config(), role="fingerprint")
    assert merge_trials([a, needed, c, b]) == (a, b, c) == merge_trials([a, b, c, needed])


def test_a_search_and_its_confirmations_are_told_apart(tmp_path):
    study, ledger = study_of(budget=4, confirm="1x2"), Ledger(str(tmp_path), "searched")
    ledger.define(study.definition())
    scheduler = Scheduler(study, ledger)
    first = scheduler.next_trial()
    assert (first.role, first.scored_on) == ("search", "held-out")
    carry_out(study, ledger)
    found = [(trial.role, trial.scored_on) for trial in study.known_trials(ledger)]
    assert sorted(set(found)) == [("confirmation", "test"), ("search", "held-out")]
    assert found.count(("confirmation", "test")) == 4


def test_an_attempt_records_its_role_and_a_log_within_the_store(finished):
    rows = Ledger(str(finished), "small").last_rows(["role", "scored_on", "configuration", "seed", "log", "experiment"])
    assert {row["role"] for row in rows} == {"trial", "replicate"} <= set(ROLES)
    assert {row["scored_on"] for row in rows} == {"test"}
    for row in rows:
        assert row["log"] == f"small/work/{row['trial']}/log.txt"
        assert (finished / row["log"]).is_file()
    plain = [row for row in rows if row["experiment"] == "e1" and row["trial"] != trial_of(finished, "e1", (0, 1))]
    assert len(plain) == 2
    assert len({row["configuration"] for row in plain}) == 1  # they differ in their seed
    assert len({row["configuration"] for row in rows}) == 4


def test_a_request_names_the_role(tmp_path):
    ledger, config = Ledger(str(tmp_path), "study"), Config()
    trial = Trial(trial_name(config), config, role="confirmation")
    study = Study("study", (trial,), {})
    assert build_request(study, ledger, Resources(gpus=0), (None, False), trial).role == "confirmation"


def test_a_copied_and_renamed_study_shows_its_logs(finished, tmp_path):
    store = copy_store(finished, tmp_path / "elsewhere")
    (store / "small").rename(store / "renamed")
    trial = trial_of(store, "e1")
    log = store / "renamed" / "work" / trial / "log.txt"
    log.write_text(log.read_text() + "\nread from the copy\n")
    result = CliRunner().invoke(main, ["show", "renamed", trial, "--store", str(store), "--json"])
    shown = json.loads(result.output)
    assert shown["log"] == str(log)
    assert shown["log_tail"][-1] == "read from the copy"
    results = analysis.open("renamed", store=store)
    assert results.log(trial).endswith("read from the copy\n")
    assert results.trials.set_index("trial").loc[trial, "log"] == str(log)


@pytest.fixture
def old(tmp_path, monkeypatch) -> Ledger:
    """A ledger of an earlier version: a search with confirmations, a trial of the file, and E3 trials."""
    whole = SCHEMAS["trials"]
    monkeypatch.setitem(SCHEMAS, "trials", pa_without(whole))
    study, ledger = study_of(budget=4, confirm="1x2"), Ledger(str(tmp_path), "searched")
    chosen = [config for config in configs(("e2", "e3"), ("x0",)) if config.seed == 0]
    trials = tuple(Trial(trial_name(config), config) for config in chosen)
    definition = Study("searched", trials, {}, search=study.search, starts=study.starts).definition()
    ledger.define({key: value for key, value in definition.items() if key != "roles"})
    carry_out(study, ledger)
    for trial in study.known_trials(ledger):
        write_old(ledger, trial, 2)
    for trial in trials:
        write_old(ledger, trial)
    monkeypatch.undo()
    return ledger


def pa_without(schema):
    for name in NEW:
        schema = schema.remove(schema.get_field_index(name))
    return schema


def write_old(ledger: Ledger, trial: Trial, number: int = 1) -> None:
    tables = attempt(trial.config, trial.name)
    (row,) = tables["trials"]
    row = {key: value for key, value in row.items() if key not in NEW} | {"log": f"/away/{trial.name}/log.txt"}
    ledger.write(trial.name, number, tables | {"trials": [row]})


@pytest.mark.parametrize("compacted", [False, True])
def test_columns_of_earlier_versions_are_filled_from_definition_and_settings(old, compacted):
    if compacted:
        compact(old)
    raw = old.read("trials").to_pandas()
    assert raw[list(NEW)].isna().all(axis=None)
    rows = read_last_attempts(old)
    found = rows.groupby(["role", "scored_on", "experiment"]).size().to_dict()
    assert found == {
        ("confirmation", "test", "e2"): 4, ("search", "held-out", "e2"): 4, ("trial", "test", "e2"): 2, ("trial", "test", "e3"): 2,
    }  # fmt: skip
    assert rows["log"].str.startswith(old.root).all()
    results = analysis.load(old.store, old.study)
    assert set(results.trials["role"]) == {"confirmation", "trial"}
    assert len(results.proposals()) == 4
    assert results.best()["iou"].notna().all()


def test_a_damaged_definition_leaves_what_the_settings_say(old):
    shutil.copy(f"{old.root}/study.json", f"{old.root}/../kept.json")
    old.folder.write("study.json", b"{")
    assert set(read_last_attempts(old)["role"]) == {"search", "trial"}


def test_compaction_keeps_the_columns_beside_those_of_earlier_versions(old):
    trial = Trial("e1-new", Config().with_leaves({"experiment": "e1"}).resolved(), role="replicate")
    (row,) = attempt(trial.config, trial.name)["trials"]
    old.write(trial.name, 1, {"trials": [row | {"role": "replicate"}]})
    before = read_last_attempts(old)
    compact(old)
    after = read_last_attempts(old)
    pd.testing.assert_frame_equal(
        *(rows.sort_values("trial", ignore_index=True)[["trial", *NEW]] for rows in (before, after))
    )
    assert after.set_index("trial").loc["e1-new", "role"] == "replicate"
