"""`ray up`, for real: on several hosts of this machine, from the README's file for one's own machines."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import yaml
from hosts import NET, SHARED, Hosts, missing
from test_cluster import LOCAL
from test_session import STUDY

from studies.cluster import check
from studies.ledger import Ledger
from studies.progress import read

ROOT = Path(__file__).parent.parent
STORE = f"{SHARED}/studies"


def described(hosts):
    """The README's file, with these hosts, this machine's Python and small nodes."""
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
@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_a_study_is_finished_though_one_of_the_machines_dies():
    with tempfile.TemporaryDirectory(dir=ROOT.parent) as folder, Hosts(Path(folder) / "hosts", 3) as hosts:
        file = Path(folder) / "cluster.yaml"
        file.write_text(yaml.safe_dump(described(hosts)))
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
            do(sys.executable, "-m", "studies.cli", "cluster", "submit", str(file), str(study), "--no-report")
            host = wait_for(lambda: trained_beyond(ledger, 100), 300)
            hosts.kill(hosts.ips.index(host))
            rows = wait_for(lambda: (rows := ledger.last()) and len(rows) == 4 and rows, 600)
        finally:
            print(hosts.ssh(0, "cat /tmp/ray/session_latest/logs/job-driver-diffseg-*.log | tail -50"))
        assert {row["status"] for row in rows} == {"complete"}
        assert set(ledger.attempts().values()) == {1}
        assert len({row["host"] for row in rows}) >= 1
        do("ray", "down", "-y", str(file))
        assert "raylet" not in hosts.ssh(0, "ps aux")


def trained_beyond(ledger, step):
    """The address of a host that trains, once it is beyond a step."""
    for trial in (ledger.definition() or {}).get("trials", {}):
        progress = read(ledger.folder.at(f"work/{trial}"))
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
