"""Clusters: checks of their files, studies submitted to them, and their nodes."""

import logging
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from botocore.exceptions import NoCredentialsError
from click.testing import CliRunner

from diffseg.errors import UserError
from studies.commands.program import main
from studies.engine import resources, submission
from studies.engine.cluster_check import check
from studies.engine.files import STOP
from studies.engine.resources import Resources, allocate
from studies.store.ledger import Ledger
from studies.store.lock import Lock

ROOT = Path(__file__).parent.parent.parent
CLUSTERS = ROOT / "studies" / "clusters"
AWS = (ROOT / "cluster.yaml").read_text(encoding="utf-8")
GCP, LOCAL, SLURM, KUBERNETES = (
    (CLUSTERS / name).read_text(encoding="utf-8")
    for name in ("google-cloud.yaml", "own-machines.yaml", "slurm.sbatch", "kubernetes.yaml")
)
FILES = {"aws": AWS, "gcp": GCP, "local": LOCAL, "slurm": SLURM, "kubernetes": KUBERNETES}


def filled(text):
    return text.replace("CHANGE-ME", "mine")


def problems(tmp_path, text):
    (tmp_path / "file").write_text(text)
    return [problem.removeprefix(f"{tmp_path / 'file'}: ") for problem in check(tmp_path / "file")]


@pytest.mark.parametrize("kind", FILES)
def test_shipped_files_have_no_problems_but_placeholders(kind, tmp_path):
    assert problems(tmp_path, filled(FILES[kind])) == []
    left = problems(tmp_path, FILES[kind])
    assert all("still has the placeholder 'CHANGE-ME'" in problem for problem in left)
    assert bool(left) == (kind != "slurm")


@pytest.mark.parametrize(
    ("kind", "old", "new", "message"),
    [
        ("aws", "max_workers: 8\nupscaling", "max_worker: 8\nupscaling", "max_worker"),
        ("aws", "head_node_type: head", "head_node_type: had", "must be one of `available_node_types`"),
        ("aws", "CPU: 0, driver: 1000", "CPU: 0", "the head has no resource 'driver'"),
        ("aws", "{CPU: 4, GPU: 1}", "{CPU: 4, GPU: 1, driver: 1}", "nodes other than the head have the resource 'driver'"),
        ("aws", "      InstanceType: m6i.large", "      InstanceMarketOptions: {MarketType: spot}", "the head is a spot node"),
        ("aws", "    max_workers: 0", "    max_workers: 2", "nodes that train need a type of their own"),
        ("aws", "    min_workers: 0\n    max_workers: 8", "    max_workers: 0", "nothing can train"),
        ("aws", "  cache_stopped_nodes: false", "  cache_stopped_nodes: true", "still cost their disks"),
        ("aws", "tune,train]==2.60.0", "tune,train]==2.59.0", "it has Ray 2.59.0, but this machine has 2.60"),
        ("aws", "'ray[default,tune,train]==2.60.0'", "ray", "it does not say which Ray is installed"),
        ("aws", "'ray[default,tune,train]==2.60.0'", "https://s3/ray-wheels/latest/ray-3.0.0.dev0-cp310-x.whl", "changes from day"),
        ("aws", "--python 3.11", "--python 3.10", "it has Python 3.10, but this machine has 3.11"),
        ("aws", "s3://mine/studies", "/home/ubuntu/studies", "a folder of each node's own"),
        ("aws", "s3://mine/studies", "studies", "not an absolute path"),
        ("aws", " DIFFSEG_STORE=s3://mine/studies", "", "it names no store"),
        ("aws", " RAY_AUTH_MODE=token", "", "it does not set RAY_AUTH_MODE"),
        ("aws", "setup_commands:\n  - curl", "initialization_commands:\n  - curl", "it has no setup_commands"),
        ("gcp", "max_workers: 0", "max_workers: 0\n    min_workers: 99", "smaller than the sum of `min_workers`"),
        ("local", "--resources='{\"driver\":1000}' ", "", "to the resources to `ray start --head`"),
        ("local", "worker_ips: [mine-1, mine-2]", "worker: [mine]", ""),
        ("local", "worker_ips: [mine-1, mine-2]", "worker_ips: [mine-1, mine]", "name a machine twice"),
        ("local", "worker_ips: [mine-1, mine-2]", "worker_ips: [mine-1, mine-1]", "name a machine twice"),
        ("local", "/mnt/mine/studies", "/tmp/studies", "a folder of each node's own"),
        ("slurm", "#SBATCH --exclusive\n", "", "add #SBATCH --exclusive"),
        ("slurm", "#SBATCH --ntasks-per-node=1\n", "", "add #SBATCH --ntasks-per-node=1"),
        ("slurm", "#SBATCH --signal=B:TERM@300\n", "", "killed at the time limit"),
        ("slurm", "symmetric-run", "start --head", "it does not start Ray on all nodes"),
        ("slurm", "--resources '{\"driver\": 1000}'", "", "the nodes have no resource 'driver'"),
        ("kubernetes", ', resources: \'"{\\"driver\\": 1000}"\'', "", "the head has no resource 'driver'"),
        ("kubernetes", 'num-cpus: "0", ', "", "the head would train, too"),
        ("kubernetes", "    authOptions: {mode: token}\n", "", "it does not set RAY_AUTH_MODE"),
        ("kubernetes", "mine/diffseg:1", "rayproject/ray:2.50.0-py311-gpu", "rayVersion is 2.60.0, but the image has Ray 2.50.0"),
        ("kubernetes", "[{name: DIFFSEG_STORE, value: s3://mine/studies}]", "[]", "it names no store"),
        ("kubernetes", "diffseg run paper", "python other.py", "runs no diffseg"),
    ],
)  # fmt: skip
def test_a_problem_is_named_in_one_sentence(kind, old, new, message, tmp_path):
    text = filled(FILES[kind])
    assert old in text
    found = problems(tmp_path, text.replace(old, new))
    assert any(message in problem for problem in found), found
    assert all("\n" not in problem for problem in found)


def test_a_mounted_store_is_shared(tmp_path):
    text = filled(AWS).replace("s3://mine/studies", "/efs/studies")
    assert "a folder of each node's own" in problems(tmp_path, text)[0]
    mounted = text.replace("setup_commands:\n", "setup_commands:\n  - sudo mount -t nfs4 fs-1.efs:/ /efs\n", 1)
    assert problems(tmp_path, mounted) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not YAML"),
        ("- 1", "describes no cluster"),
        ("a: 1", "neither a provider"),
        ("", "describes no cluster"),
    ],
)
def test_other_files_are_refused(text, message, tmp_path):
    (tmp_path / "file.yaml").write_text(text)
    shown = CliRunner().invoke(main, ["cluster", "check", str(tmp_path / "file.yaml")])
    assert shown.exit_code == 2
    assert message in shown.output
    assert CliRunner().invoke(main, ["cluster", "check", str(tmp_path / "none.yaml")]).exit_code == 2


def test_the_program_names_all_problems(tmp_path):
    (tmp_path / "bad.yaml").write_text(filled(AWS).replace("driver: 1000", "x: 1").replace("RAY_AUTH_MODE=token", ""))
    shown = CliRunner().invoke(main, ["cluster", "check", str(tmp_path / "bad.yaml")])
    assert shown.exit_code == 1
    assert shown.output.count("bad.yaml: ") == 2
    (tmp_path / "good.yaml").write_text(filled(AWS))
    assert CliRunner().invoke(main, ["cluster", "check", str(tmp_path / "good.yaml")]).output == "nothing wrong\n"


class TestSubmit:
    @pytest.fixture
    def sent(self, monkeypatch):
        """The files and the command that would go to the head."""
        from ray.autoscaler import sdk

        found = {}

        def rsync(config, source, target, down):
            found["files"] = {str(file.relative_to(source)) for file in Path(source).rglob("*") if file.is_file()}
            found["target"] = target

        def run_on_cluster(config, cmd, with_output):
            found["command"] = cmd
            return "submitted"

        monkeypatch.setattr(sdk, "rsync", rsync)
        monkeypatch.setattr(sdk, "run_on_cluster", run_on_cluster)
        return found

    def test_code_and_study_are_sent_and_the_head_runs_the_study(self, sent, tmp_path):
        (tmp_path / "cluster.yaml").write_text(filled(AWS))
        (tmp_path / "my study.toml").write_text('seeds = [0]\n[search]\nspace = "spaces/mine.py:space"')
        (tmp_path / "spaces").mkdir()
        (tmp_path / "spaces/mine.py").write_text("def space(trial): ...")
        line = [
            "cluster",
            "submit",
            str(tmp_path / "cluster.yaml"),
            str(tmp_path / "my study.toml"),
            "--data",
            "a=s3://b/a",
        ]
        shown = CliRunner().invoke(main, [*line, "--name", "mine", "training.steps=5"])
        assert shown.exit_code == 0, shown.output
        job = re.search(r"diffseg-\w{8}", shown.output)[0]
        assert {
            "studies/commands/program.py",
            "studies/paper.toml",
            "analysis/report.css",
            "diffseg/networks/segdiff/presets.toml",
            "my study.toml",
            "spaces/mine.py",
        } <= sent["files"]
        assert not any("__pycache__" in name for name in sent["files"])
        assert sent["target"] == f"/tmp/{job}/"
        assert sent["command"].startswith("ray job submit --address http://127.0.0.1:8265 --no-wait")
        ran = "python -m studies run 'my study.toml' --data a=s3://b/a --name mine training.steps=5 --address auto"
        assert sent["command"].endswith(f"--working-dir /tmp/{job} -- {ran}")

    def test_a_file_with_problems_starts_nothing(self, sent, tmp_path):
        (tmp_path / "cluster.yaml").write_text(AWS)
        shown = CliRunner().invoke(main, ["cluster", "submit", str(tmp_path / "cluster.yaml"), "paper"])
        assert shown.exit_code == 2
        assert "placeholder" in shown.output
        assert not sent

    @pytest.mark.parametrize(
        ("error", "message"),
        [
            (AssertionError(), r"cannot be reached or refuses the job \(AssertionError: the last line\)"),
            (SystemExit(1), r"cannot be reached or refuses the job \(SystemExit: the last line\)"),
            (NoCredentialsError(), "this machine has no valid credentials of aws.*`aws configure` sets them"),
            (RuntimeError("The token in the request is invalid: check credentials"), "no valid credentials of aws"),
            (ImportError("install boto3"), r"a package .* is missing here \(install boto3\)"),
            (KeyError("x"), r"refuses the job \(KeyError: 'x'\)"),
            (RecursionError("too\ndeep"), r"refuses the job \(RecursionError: too deep\)"),
            (OSError(28, "No space left on device"), r"refuses the job \(OSError: .*No space"),
        ],
    )  # fmt: skip
    def test_any_error_of_the_launcher_is_reported_in_one_sentence(
        self, error, message, sent, tmp_path, monkeypatch, capfd
    ):
        from ray.autoscaler import sdk

        def fail(*_, **__):
            print("first\n\x1b[31mthe last line\x1b[0m")
            logging.getLogger("ray").error("a traceback")
            raise error

        monkeypatch.setattr(sdk, "rsync", fail)
        (tmp_path / "cluster.yaml").write_text(filled(AWS))
        shown = CliRunner().invoke(main, ["cluster", "submit", str(tmp_path / "cluster.yaml"), "paper"])
        assert shown.exit_code == 2
        assert re.search(message, shown.output), shown.output
        assert shown.output.count("\n") == 1
        assert "".join(capfd.readouterr()) == ""

    def test_the_real_launcher_without_credentials_ends_with_one_sentence(self, tmp_path, monkeypatch):
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
        (tmp_path / "cluster.yaml").write_text(filled(AWS))
        shown = CliRunner().invoke(main, ["cluster", "submit", str(tmp_path / "cluster.yaml"), "paper"])
        assert "no valid credentials of aws" in shown.output
        assert (shown.exit_code, shown.output.count("\n")) == (2, 1)

    @pytest.mark.parametrize(
        ("kind", "message"), [("slurm", "`sbatch .*` submits it"), ("kubernetes", "`kubectl apply -f .*` submits it")]
    )
    def test_other_kinds_name_the_program_that_submits_them(self, kind, message, sent, tmp_path):
        (tmp_path / "file").write_text(filled(FILES[kind]))
        with pytest.raises(UserError, match=message):
            submission.submit(tmp_path / "file", ("paper",), print)
        assert not sent

    def test_an_absent_head_is_reported(self, sent, tmp_path, monkeypatch):
        from ray.autoscaler import sdk

        def fail(*_, **__):
            raise RuntimeError("Head node of cluster (diffseg) not found!")

        monkeypatch.setattr(sdk, "rsync", fail)
        (tmp_path / "cluster.yaml").write_text(filled(AWS))
        with pytest.raises(UserError, match=r"cannot be reached.*not found.*`ray up .*` starts it"):
            submission.submit(tmp_path / "cluster.yaml", ("paper",), print)


def test_nodes_that_may_still_start_count(tmp_path, monkeypatch):
    head, gpu = {"driver": 1000.0, "CPU": 0.0}, {"CPU": 4.0, "GPU": 1.0}
    monkeypatch.setattr(resources, "LAUNCHED", tmp_path / "config.yaml")
    monkeypatch.setattr(resources.time, "sleep", lambda _: there.append(gpu))
    ray = SimpleNamespace(nodes=lambda: [{"Resources": node, "Alive": True} for node in there])
    there = [head]
    assert resources.find_nodes(ray, resources.read_launcher_config(), {}) == [head]
    (tmp_path / "config.yaml").touch()  # left by an interrupted start
    assert resources.read_launcher_config() == {}
    config = yaml.safe_load(filled(AWS))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    found = resources.find_nodes(ray, resources.read_launcher_config(), {})
    assert found == [head] + 8 * [{"CPU": 4, "GPU": 1}]
    config["available_node_types"]["gpu"] |= {"min_workers": 2}  # as for machines that always run
    resources.find_nodes(ray, config, {})
    assert there == [head, gpu, gpu]
    assert allocate(Resources(), found) == (Resources(1, 1), 8)
    assert allocate(Resources(1, 1, 4), [head], on_demand=True) == (Resources(1, 1, 4), 4)
    for given, on_demand in ((Resources(1, 1, 4), False), (Resources(1, None, 4), True), (Resources(1, 1), True)):
        with pytest.raises(UserError, match="but no node has them"):
            allocate(given, [{"driver": 1000.0}], on_demand)


def test_only_nodes_with_the_requested_labels_count(monkeypatch):
    kinds = [
        ("A100", {"CPU": 8.0, "GPU": 1.0}),
        ("H100", {"CPU": 16.0, "GPU": 2.0}),
        (None, {"driver": 9.0, "CPU": 2.0}),
    ]
    nodes = [
        {"Resources": found, "Alive": True, "Labels": {"ray.io/accelerator-type": kind} if kind else {}}
        for kind, found in kinds
    ]
    ray, label = SimpleNamespace(nodes=lambda: nodes), "ray.io/accelerator-type"
    for kind, count in (("A100", 1), ("H100", 2)):
        assert allocate(Resources(labels={label: kind}), resources.find_nodes(ray, {}, {label: kind}))[1] == count
    assert allocate(Resources(), resources.find_nodes(ray, {}, {}))[1] == 3
    launched = {
        "head_node_type": "head",
        "available_node_types": {
            "head": {"resources": {}, "max_workers": 0},
            "small": {"resources": {"CPU": 4, "GPU": 1}, "max_workers": 3, "labels": {label: "L4"}},
        },
    }
    assert resources.find_nodes(ray, launched, {label: "L4"}) == 3 * [{"CPU": 4, "GPU": 1}]


def test_stop_writes_the_stop_file_if_a_session_runs(tmp_path):
    ledger = Ledger(str(tmp_path), "study")
    ledger.define({"trials": {}})
    line = ["stop", "study", "--store", str(tmp_path)]
    shown = CliRunner().invoke(main, line)
    assert (shown.exit_code, ledger.folder.exists(STOP)) == (2, False)
    assert "no session runs study" in shown.output
    lock = Lock(ledger.folder)
    lock.acquire()
    assert CliRunner().invoke(main, line).exit_code == 0
    assert ledger.folder.exists(STOP)
    lock.release()
