"""Every command with every option, as a user gives them, on one small study that has run."""

import json
import os
import re
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from finished import STUDY, copy_store, digests, trial_of
from PIL import Image
from test_data import folder

from diffseg.errors import MachineryError, UserError
from studies.commands.program import main
from studies.store.ledger import Ledger
from studies.store.lock import Lock

SEARCH = (
    STUDY.replace('["e1", "e2", "e3"]', "[]")
    .replace('baseline = "plain"', "")
    .replace("[variant.plain]", "")
    .replace(
        "[variant.pooled]\n    inference.seeds = [0, 1]",
        "[search]\n    fidelities = [{ training.steps = 3 }]\n    folds = 2\n    [search.start]\n    data.held_out = 0.5\n",
    )
)


@dataclass(frozen=True)
class Case:
    """A command line, in which {names} stand for places; its exit status; and a pattern of its output."""

    line: str
    status: int = 0
    output: str = ""
    ray: bool = False  # needs a running Ray
    slow: bool = False


STORE, DATA = "--store {store}", "--data mine={data}"
PLACE = "--cpus 1 --gpus 0 --workers 1 --label ray.io/node=none"  # no node has this label
AUTO = "data.size=16 network.multipliers=[1,1] network.attention=[] training.batch=4 inference.ensemble=2 --hours 0.3 --metric dice"
SEARCHED = (
    "{search} --space weighting --budget 2 --objective iou --sampler random --pruning 2 --confirm 1x1 --concurrency 1 "
    "--stop hours=9 --certainty 0.8 --folds 2"
)
CASES = [
    Case("--version", output=r"diffseg, version \d"),
    Case("-h", output="Start with"),
    Case("", output="Start with"),
    Case(f"status small {STORE}", output="5 complete"),
    Case(f"status small {STORE} --json", output='"status": "complete"'),
    Case(f"status small {STORE} --watch", output="5 complete"),  # no session runs it
    Case(f"status small {STORE} --size", output=r"5 complete; .* MiB on disk \(trials .* MiB, tables .*iB, other files .*\)"),
    Case(f"status small {STORE} --size --json", output='"bytes": [1-9]'),
    Case(f"status small {STORE} --watch --json", 2, "leave out --json"),
    Case(f"show small {{trial}} {STORE}", output="test images: iou"),
    Case(f"show small {{trial}} {STORE} --config", output='"learning_rate"'),
    Case(f"show small {{trial}} {STORE} --follow", output="complete after"),
    Case(f"show small {{trial}} {STORE} --json", output='"log_tail"'),
    Case(f"best small {STORE}", output="{trial}"),
    Case(f"best small {STORE} --metric ece --pareto --json", output='"ece"'),
    Case(f"best small {STORE} --held-out", 2, "measured a segmentation|no search"),
    Case(f"compare small {STORE}", 0, "pooled"),
    Case(f"compare small {STORE} --json", 0, '"verdict"|"difference"'),
    Case(f"compare small {STORE} --class all", 0, "pooled"),
    Case(f"compare small {STORE} --class liver", 2, "no class 'liver': allowed are all"),
    Case(f"report small {STORE} --output {{tmp}}/r.html", output="r.html"),
    Case(f"report small {STORE} --png {{tmp}}/png", output="report.html", slow=True),
    Case(f"card small {{trial}} {STORE}", output=r"small/cards/{trial}.md"),
    Case(f"card small {{trial}} {STORE} --output {{tmp}}/card.md", output="card.md"),
    Case(f"card small {{trial}} {STORE} --output {{study}}", 2, "exists: remove it, or give another file"),
    Case(f"card small {{trial}} {STORE} --output {{picture}}/card.md", 2, "cannot be written to a.png/card.md"),
    Case(f"card small e3- {STORE}", 2, "which segments nothing: give a trial of E1 or E2"),
    Case(f"card small e9- {STORE}", 2, "no trial of small has a name that is, begins or ends with 'e9-'"),
    Case(f"card failed {{trial}} {STORE}", 2, "is failed, and a card describes a complete one: `diffseg retry failed`"),
    Case(f"card smal {{trial}} {STORE}", 2, "no study 'smal' in the store"),
    Case(f"export small {STORE} --csv {{tmp}}/csv", output=r"table1.csv \(3 rows\)"),
    Case(f"export small {STORE}", 2, "Missing option '--csv'"),
    Case(f"dashboard small {STORE} --port {{port}}", 2, "cannot be used"),
    Case(f"dashboard small {STORE} --tensorboard {{tmp}}/events", output="5 trials in"),
    Case(f"studies {STORE}", output=r"small +5 +5"),
    Case(f"studies {STORE} --json", output='"running": false'),
    Case("networks", output=r"segdiff .*e1, e2"),
    Case("networks --json", output='"citation"'),
    Case("presets", output=r"nnunet +published/2d"),
    Case("presets segdiff", output=r"segdiff +debug/monuseg +data.normalise=standard"),
    Case("presets segdiff --json", output='"preset": "published/monuseg"'),
    Case("presets unet", 2, "there is no network 'unet': allowed are ensemdiff, "),
    Case("settings", output=r"training.learning_rate +number"),
    Case("settings training.steps", output=r"training.steps +integer"),
    Case("settings inference --json", output='"path": "inference.steps"'),
    Case("settings trainig", 2, "no setting begins with 'trainig': the nearest are training[,;]"),
    Case("settings zzz", 2, "no setting begins with 'zzz': `diffseg settings` lists all"),
    Case(f"compact small {STORE}", output="5 attempts of small were merged"),
    Case(f"clean small {STORE}", output="small has nothing to clean"),
    Case(f"clean small {STORE} --keep best:1", output=r"removed networks of 3 trials: .* MiB in 3 files"),
    Case(f"clean small {STORE} --keep best:1 --metric ece --dry-run", output="would remove networks of [34] trials: .* MiB"),
    Case(f"clean small {STORE} --metric ece", 2, "give --keep, too"),
    Case(f"clean small {STORE} --keep best", 2, "got 'best', but it takes best:N"),
    Case(f"clean small {STORE} --keep best:0", 2, "got 'best:0', but it takes best:N"),
    Case(f"delete small {STORE} --yes", output="small was deleted"),
    Case(f"delete small {STORE}", 2, "no terminal to ask at .*: give --yes"),
    Case(f"delete smal {STORE}", 2, r"no study 'smal' in the store .* \(did you mean small\?\)"),
    Case(f"predict small {{trial}} {{picture}} {STORE} --output {{tmp}}/out --device cpu", output="files in"),
    Case(f"stop small {STORE}", 2, "no session runs small"),
    Case(f"plan {{study}} {STORE} --name other --experiment e1 {DATA}", output="trials to do"),
    *(
        Case(f"{command} {{search}} --space weighting --pruning 2 --warm-start small {STORE}", 2, "study small .*search")
        for command in ("run", "plan")
    ),
    Case(f"plan {SEARCHED} {STORE} --cpus 1 --gpus 0 --workers 1 --json", output='"missing"'),
    Case(f"plan {{study}} {STORE} --label a=b", output="trials to do"),
    Case(f"plan {{study}} {STORE} --hours 3 --metric ece", 2, "options of `diffseg plan auto`"),
    Case(f"plan auto {DATA} {STORE} {AUTO}", output="planned: .* steps each"),
    Case(f"auto {STORE}", 2, "auto plans for one data set, but 0 are given"),
    Case(f"auto {DATA} {STORE} --metric io", 2, r"no metric 'io' \(did you mean iou\?\)"),
    Case(f"auto {DATA} {STORE} --name small", 2, "study small exists, but not by `diffseg auto`"),
    Case(f"auto {DATA} {STORE} {AUTO} {PLACE}", 2, "labelled ray.io/node=none", ray=True),
    Case("init mine {data} --output {tmp}/own.toml", output="diffseg plan .*own.toml --data mine=.*data"),
    Case("init mine {data} --output {study}", 2, "exists: give another file"),
    Case("cluster check {study}", 2, "is not YAML|describes no cluster"),
    Case("cluster submit {cluster} paper --name mine", 2, "describes no cluster"),
    Case("data check mine {data} --sheet {tmp}/sheet.png --interval 5 --json", output='"problems"'),
    Case(f"fingerprint mine data.size=16 {DATA} {STORE} --quick --json", output='"half"'),
    Case(f"fingerprint mine data.size=16 {DATA} {STORE} --quick --class core", 2, "core"),
    Case(f"recommend mine data.size=16 {DATA} {STORE} --class core --output {{tmp}}/core.toml", 2, "core"),
    Case(f"recommend mine data.size=16 {DATA} {STORE} --output {{tmp}}/mine.toml", output="Run it: diffseg run"),
    Case("bench --part speed --network segdiff --preset debug --size 16 --batch 2 --compile --rounds 3", 2, "is none of"),
    Case("bench --part metrics --network segdiff --size 16 --batch 2 --rounds 3 --quick --output {tmp}/b.parquet --json",
         output='"way"', slow=True),
    Case(f"run {{study}} {STORE} --extend training.steps=0", 2, "training.steps"),
    Case(f"run {{study}} {STORE} --report", output="report.html"),  # nothing is left to do
    Case(f"run {{study}} {STORE} --address 127.0.0.1:1 --name other", 2, "no Ray cluster at 127.0.0.1:1"),
    Case(f"retry small {STORE} --address 127.0.0.1:1", output="report.html"),  # nothing has failed
    Case(f"fingerprint mine {DATA} {STORE} --address 127.0.0.1:1", 2, "no Ray cluster at 127.0.0.1:1"),
    Case(f"run {{study}} {STORE} --experiment e1 --name other {DATA} {PLACE}", 2, "labelled ray.io/node=none", ray=True),
    Case(f"run {SEARCHED} {STORE} {PLACE}", 2, "labelled ray.io/node=none", ray=True),
    Case(f"retry failed {STORE} {PLACE}", 2, "labelled ray.io/node=none", ray=True),
    Case(f"fingerprint mine {DATA} {STORE} {PLACE}", 2, "labelled ray.io/node=none", ray=True),
    Case(f"retry failed {STORE} --cpus 1 --gpus 0 --workers 1", output="report.html", ray=True),
    Case(f"run {{study}} {STORE} --experiment e1 --extend --no-report --name failed", 1, "`diffseg retry failed`"),
    Case(f"run {SEARCHED} {STORE} --cpus 1 --gpus 0 --no-report", ray=True, slow=True),
    Case(f"run {SEARCHED} {STORE} --cpus 1 --no-report --stop hours=1e-6",
         output="stopped after 1 of 2 proposals, since its trials ran for .* h: search.stop.hours is 1e-06",
         ray=True, slow=True),
    Case(f"fingerprint mine {{quick}} {DATA} {STORE} --cpus 1", output="Half is lost at", ray=True, slow=True),
]  # fmt: skip
QUICK = (
    "data.size=16 network.width=32 network.multipliers=[1,1] network.blocks=1 network.attention=[2] training.batch=4 "
    "diffusion.fingerprint_steps=4 inference.timestep_images=4 inference.timesteps=4"
)


@pytest.fixture
def places(finished, tmp_path, monkeypatch):
    """Return the places that {names} stand for. The study `failed` is `small` with a later failure of its E1 trial."""
    from diffseg.fingerprint import quick as patches

    for name in ("EXAMPLES", "MASKS", "QUERIES", "WINDOWS"):
        monkeypatch.setattr(patches, name, 64)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    store = copy_store(finished, tmp_path / "copy")
    copy_store(finished, tmp_path / "again").joinpath("small").rename(store / "failed")
    ledger = Ledger(str(store), "failed")
    ledger.define(ledger.definition() | {"study": "failed"})
    row = {"study": "failed", "status": "failed", "experiment": "e1", "error": "the disk was full"}
    ledger.write(trial_of(store, "e1"), 2, {"trials": [row]})
    folder(tmp_path / "data")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)).save("a.png")
    Path("search.toml").write_text(SEARCH)
    Path("cluster.yaml").write_text("a: 1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield {
            "store": store,
            "study": store.parent / "small.toml",
            "search": "search.toml",
            "trial": trial_of(store, "e1"),
            "picture": "a.png",
            "data": tmp_path / "data",
            "cluster": "cluster.yaml",
            "port": taken.getsockname()[1],
            "tmp": tmp_path,
            "quick": QUICK,
        }


def check(case: Case, places: dict):
    result = CliRunner().invoke(main, case.line.format(**places).split())
    assert result.exit_code == case.status, (result.output, result.exception)
    assert re.search(case.output.format(**places) if "{" in case.output else case.output, result.output), result.output
    if case.status == 2:
        assert result.output.count("\n") == 1 or case.line.startswith("auto"), (
            result.output
        )  # which prints its plan before


def marked(cases):
    return [pytest.param(case, marks=[pytest.mark.slow] if case.slow else [], id=case.line[:60]) for case in cases]


@pytest.mark.sampled(12)
@pytest.mark.parametrize("case", marked(case for case in CASES if not case.ray))
def test_a_command(case, places, monkeypatch):
    if "--address" in case.line:
        monkeypatch.setattr("ray.is_initialized", lambda: False)
    check(case, places)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("case", marked(case for case in CASES if case.ray))
def test_a_command_that_runs_trials(case, places, ray):
    check(case, places)


def options(group: click.Group = main, path: tuple[str, ...] = ()):
    """Yield every command with all spellings of its options."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from options(command, (*path, name))
        else:
            given = [param for param in command.params if isinstance(param, click.Option)]
            yield " ".join((*path, name)), {way for param in given for way in (*param.opts, *param.secondary_opts)}


@pytest.mark.parametrize(("command", "ways"), [*options()], ids=lambda value: value if isinstance(value, str) else "")
def test_every_command_and_every_option_has_a_case(command, ways):
    given = [set(case.line.split()) for case in CASES if f"{case.line} ".startswith(f"{command} ")]
    assert given, f"nothing calls {command}"
    assert ways - set().union(*given) == set()


ROOT = Path(__file__).parent.parent.parent
SOURCES = [path for room in ("diffseg", "search_spaces", "studies", "analysis") for path in (ROOT / room).rglob("*.py")]
FOREIGN_OPTIONS = {  # options of Ray, SLURM and git, which messages name too
    "--head", "--resources", "--exclusive", "--signal", "--ntasks-per-node", "--tasks-per-node", "--logdir", "--no-wait",
    "--submission-id", "--working-dir", "--python", "--porcelain", "--error-unmatch", "--help",
}  # fmt: skip


def test_messages_name_commands_and_options_that_exist():
    """Commands stand in backticks, such as `diffseg retry STUDY`; options may stand anywhere."""
    known = dict(options())
    for path in SOURCES:
        text = path.read_text()
        for words in re.findall(r"`diffseg ([^`]*)`", text):
            command = next((name for name in known if f"{words} ".startswith(f"{name} ")), None)
            assert command, f"{path}: there is no `diffseg {words}`"
            assert set(re.findall(r"--[a-z][a-z-]*", words)) <= known[command], f"{path}: `diffseg {words}`"
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))
        assert named <= set().union(*known.values()) | FOREIGN_OPTIONS, path


@pytest.mark.slow
def test_reading_commands_write_nothing_into_the_store(places):
    before = digests(places["store"])
    for line in ("status small", "show small {trial}", "best small", "compare small", "plan small",
                 "predict small {trial} a.png", "report small --output r.html", "card small {trial} --output card.md",
                 "export small --csv tables"):  # fmt: skip
        result = CliRunner().invoke(main, f"{line} {STORE}".format(**places).split())
        assert result.exit_code == 0, result.output
        assert digests(places["store"]) == before, line


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UserError("the file is empty"), 2),
        (click.BadParameter("got x"), 2),
        (MachineryError("Ray did not start"), 3),
        (KeyboardInterrupt(), 130),
        (click.Abort(), 130),
    ],
)
def test_exit_statuses(error, status, places, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("studies.engine.session.run", fail)
    result = CliRunner().invoke(main, ["run", str(places["study"]), "--store", str(places["store"])])
    assert result.exit_code == status
    assert re.fullmatch(r"\n?diffseg: .*\n", result.output)  # click ends the line of ^C itself


def program(line: str, folder: Path) -> subprocess.CompletedProcess:
    """Run a shell line with the program in a folder."""
    text = line.replace("diffseg", f"{sys.executable} -m studies")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent.parent)}
    return subprocess.run(["sh", "-c", text], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no full disk to write to")
@pytest.mark.parametrize("command", ["--help", f"status small {STORE}", f"status small {STORE} --json"])
def test_output_to_a_full_disk_is_one_sentence(command, places, tmp_path):
    result = program(f"diffseg {command.format(**places)} > /dev/full", tmp_path)
    assert result.returncode == 3
    assert re.fullmatch(r"diffseg: the disk is full \(.*\): make room, .*\n", result.stderr)


def test_a_missing_current_folder_is_one_sentence(tmp_path):
    result = program("mkdir gone; cd gone; rmdir ../gone; diffseg plan quickstart", tmp_path)
    assert result.returncode == 2
    assert re.fullmatch(r"diffseg: the current folder cannot be read \(.*\): change to another\n", result.stderr)


def test_a_stopped_session_exits_with_130(places, monkeypatch):
    monkeypatch.setattr("studies.engine.session._run_missing", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    result = CliRunner().invoke(main, ["run", str(places["study"]), "--store", "new"])
    assert result.exit_code == 130
    assert "the same command resumes from the last checkpoints" in result.output
    assert not Lock(Ledger("new", "small").folder).is_held()


class TestMachinery:
    """Failures of Ray's drivers."""

    def run(self, places):
        return CliRunner().invoke(main, f"run {{study}} --store new --experiment e1 {DATA}".format(**places).split())

    def test_workers_that_do_not_start(self, ray, places, monkeypatch):
        monkeypatch.setattr("studies.engine.connection._import_driver", lambda: os._exit(1))
        result = self.run(places)
        assert result.exit_code == 3, result.output
        sentence = r"^diffseg: Ray cannot start the drivers of trials \(The worker died .*\): its logs are in .*$"
        assert re.search(sentence, result.output, re.MULTILINE)

    @pytest.mark.slow
    def test_drivers_that_die(self, ray, places, monkeypatch):
        monkeypatch.setattr("studies.engine.driver.run_driver", lambda config: os._exit(1))
        result = self.run(places)
        assert result.exit_code == 3, result.output
        assert "ended again and again" in result.output
        assert "logs are in" in result.output
        assert "stopped" not in result.output


def test_json_output_parses(places):
    for line in ("status small", "show small {trial}", "best small", "compare small", "plan {study}"):
        result = CliRunner().invoke(main, f"{line} {STORE} --json".format(**places).split())
        json.loads(result.stdout, parse_constant=pytest.fail)
