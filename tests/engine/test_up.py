"""`ray up`: on several hosts within this machine, and against a server that imitates AWS, up to the request for machines."""

import logging
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import yaml
from hosts import NET, SHARED, Hosts, missing
from ray.autoscaler._private.aws.config import DEFAULT_AMI
from ray.autoscaler._private.providers import _get_node_provider
from ray.autoscaler.sdk.sdk import bootstrap_config
from test_cluster import AWS, LOCAL, SLURM, filled
from test_session import STUDY

from studies.engine.cluster_check import check
from studies.store.ledger import Ledger
from studies.store.progress import read_progress

ROOT = Path(__file__).parent.parent.parent
STORE = f"{SHARED}/studies"
PROGRAM = "python -m studies"
needs_hosts = pytest.mark.skipif((lacking := missing()) is not None, reason=str(lacking))


def describe(hosts):
    """Fill the shipped file for one's own machines with these hosts, this machine's Python and small nodes."""
    config = yaml.safe_load(LOCAL)
    head, *workers = hosts.ips
    config["provider"] = {"type": "local", "head_ip": head, "worker_ips": workers}
    config["auth"] = {"ssh_user": "root", "ssh_private_key": str(hosts.key)}
    *_, last = config["setup_commands"]
    bare = last.replace("/mnt/CHANGE-ME/studies", STORE).replace("~/venv/bin", f"{sys.prefix}/bin")
    config["setup_commands"] = [bare]
    small = " --object-store-memory=100000000"
    config["head_start_ray_commands"][-1] += small
    config["worker_start_ray_commands"][-1] += f" --num-cpus=1{small}"
    return config


@pytest.mark.slow
@needs_hosts
@pytest.mark.parametrize("fault", ["kill", "cut"])
def test_a_study_finishes_when_one_machine_dies_or_loses_its_network(fault):
    with tempfile.TemporaryDirectory(dir=ROOT.parent) as folder, Hosts(Path(folder) / "hosts", 3) as hosts:
        file = Path(folder) / "cluster.yaml"
        file.write_text(yaml.safe_dump(describe(hosts)))
        assert check(file) == []
        study = Path(folder) / "small.toml"
        study.write_text(STUDY.replace("training.steps = 300", "training.steps = 1500"))
        env = os.environ | {"HOME": folder, "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}", "RAY_AUTH_MODE": "token"}

        def do(*line):
            done = subprocess.run(
                line, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL
            )
            assert done.returncode == 0, f"{line}: {done.stdout[-3000:]} {done.stderr[-3000:]}"
            return done.stdout

        do("ray", "get-auth-token", "--generate")
        do("ray", "up", "-y", "--no-config-cache", str(file))
        ledger = Ledger(str(hosts.shared / "studies"), "small")
        try:
            do(sys.executable, "-m", "studies", "cluster", "submit", str(file), str(study), "--no-report")
            host = wait_for(lambda: find_training_host(ledger, 100), 300)
            getattr(hosts, fault)(hosts.ips.index(host))
            rows = wait_for(lambda: (rows := ledger.last_rows()) and len(rows) == 4 and rows, 600)
        finally:
            print(hosts.ssh(0, "cat /tmp/ray/session_latest/logs/job-driver-diffseg-*.log | tail -50"))
        assert {row["status"] for row in rows} == {"complete"}
        assert set(ledger.last_attempts().values()) == {1}
        assert len({row["host"] for row in rows}) >= 1
        if fault == "kill":
            do("ray", "down", "-y", str(file))
            assert "raylet" not in hosts.ssh(0, "ps aux")


@pytest.mark.slow
@needs_hosts
def test_a_slurm_job_on_two_machines_stops_in_time_and_resumes():
    """Run the shipped script's srun command on every node: it is stopped, as at a time limit, and run again."""
    command = re.search(r"srun (ray symmetric-run .*) &\n", SLURM, re.DOTALL)[1].replace("\\\n", " ")
    command = command.replace(
        "diffseg run paper --data isic16=/scratch/$USER/isic16", f"{PROGRAM} run {SHARED}/small.toml --no-report"
    )
    with tempfile.TemporaryDirectory(dir=ROOT.parent) as folder, Hosts(Path(folder) / "hosts", 2) as hosts:
        command = (
            command.replace("$head", hosts.ips[0])
            .replace("$SLURM_JOB_NUM_NODES", "2")
            .replace(" -- ", " --num-cpus 1 -- ")
        )
        env = f"export PATH={sys.prefix}/bin:$PATH PYTHONPATH={ROOT} RAY_AUTH_MODE=token DIFFSEG_STORE={STORE}; "
        (hosts.shared / "small.toml").write_text(STUDY.replace("training.steps = 300", "training.steps = 500"))
        for number in range(2):
            hosts.ssh(
                number,
                "mkdir -p ~/.ray; echo 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef > ~/.ray/auth_token",
            )
        ledger = Ledger(str(hosts.shared / "studies"), "small")
        for stopped in (True, False):
            nodes = [hosts.start(number, env + command) for number in range(2)]
            if stopped:
                wait_for(lambda: find_training_host(ledger, 100), 300)
                hosts.ssh(0, f"{env} {PROGRAM} stop small")
            output = nodes[0].communicate(timeout=600)[0]
            assert (nodes[0].returncode == 0) != stopped, output
            assert nodes[1].wait(60) is not None
            assert (len(ledger.last_attempts()) == 4) != stopped, output
        assert {row["status"] for row in ledger.last_rows()} == {"complete"}


def find_training_host(ledger, step):
    """Return the address of a host that trains beyond a step; None if there is none yet."""
    for trial in (ledger.definition() or {}).get("trials", {}):
        progress = read_progress(ledger.folder.at(f"work/{trial}"))
        if progress and progress.step > step and progress.phase == "training":
            log = (ledger.folder.read(f"work/{trial}/log.txt") or b"").decode()
            number = log.rpartition(" on dsh")[2].partition(":")[0]
            return f"{NET}.{int(number) + 2}"
    return None


def wait_for(found, timeout):
    end = time.monotonic() + timeout
    while not (value := found()):
        assert time.monotonic() < end, "it takes too long"
        time.sleep(1)
    return value


@pytest.fixture
def aws(tmp_path, monkeypatch):
    """A server that imitates AWS, and an environment in which no other server is used."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "HOME": str(tmp_path),
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-west-2",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text("0" * 64)
    yield
    server.stop()


@pytest.mark.slow
def test_the_shipped_file_asks_aws_for_the_right_machines(aws, tmp_path):
    import boto3

    iam, ec2 = boto3.client("iam"), boto3.client("ec2")
    iam.create_instance_profile(InstanceProfileName="diffseg-node")  # as the file's comments say

    def instances():
        found = [one for group in ec2.describe_instances()["Reservations"] for one in group["Instances"]]
        return {next(tag["Value"] for tag in one["Tags"] if tag["Key"] == "ray-user-node-type"): one for one in found}

    file = tmp_path / "cluster.yaml"
    file.write_text(filled(AWS))
    line = [sys.executable, "-m", "ray.scripts.scripts", "up", "-y", "--no-config-cache", str(file)]
    with (tmp_path / "up.log").open("w") as log:
        up = subprocess.Popen(line, cwd=ROOT, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:  # it waits for the head's SSH server, which does not exist
        wait_for(lambda: "head" in instances() or up.poll() is not None, 120)
    finally:
        up.kill()
    assert "head" in instances(), (tmp_path / "up.log").read_text()

    config = bootstrap_config(yaml.safe_load(file.read_text()), no_config_cache=True)
    gpu = config["available_node_types"]["gpu"]
    tags = {
        "ray-cluster-name": "diffseg",
        "ray-node-type": "worker",
        "ray-user-node-type": "gpu",
        "ray-node-status": "up",
    }
    _get_node_provider(config["provider"], "diffseg").create_node(gpu["node_config"], tags, 1)
    head, worker = instances()["head"], instances()["gpu"]
    assert (head["InstanceType"], worker["InstanceType"]) == ("m6i.large", "g5.xlarge")
    assert (head.get("InstanceLifecycle"), worker.get("InstanceLifecycle")) == (None, "spot")
    assert head["ImageId"] == worker["ImageId"] == DEFAULT_AMI["us-west-2"]
    for one in (head, worker):
        assert one["IamInstanceProfile"]["Arn"].endswith("diffseg-node")
        assert one["SecurityGroups"]
        assert {"Key": "ray-cluster-name", "Value": "diffseg"} in one["Tags"]
    assert len([one for group in ec2.describe_instances()["Reservations"] for one in group["Instances"]]) == 2
    rules = ec2.describe_security_groups(GroupIds=[head["SecurityGroups"][0]["GroupId"]])["SecurityGroups"][0][
        "IpPermissions"
    ]
    open_to_all = [
        rule["FromPort"] for rule in rules if any(r["CidrIp"] == "0.0.0.0/0" for r in rule.get("IpRanges", []))
    ]
    assert open_to_all == [22]
