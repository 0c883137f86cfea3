"""Hosts within this machine: each has namespaces (network, processes, mounts, names), a home, a /tmp and an SSH server."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

NEEDED = ("ip", "unshare", "ssh", "ssh-keygen", "rsync", "/usr/sbin/sshd")
NET = "10.77.0"
SHARED = "/mnt"  # where hosts mount the folder that they share


def missing() -> str | None:
    """Return why there can be no hosts on this machine; None if there can."""
    if os.geteuid() != 0:
        return "needs root, for namespaces"
    if absent := [name for name in NEEDED if not shutil.which(name)]:
        return f"needs {', '.join(absent)}"
    if Path(sys.prefix).is_relative_to("/tmp") or Path(sys.prefix).is_relative_to("/mnt"):
        return "needs Python outside of /tmp and /mnt, which hosts have of their own"
    if subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--uts", "--fork", "true"], capture_output=True
    ).returncode:
        return "may not make namespaces"
    return None


class Hosts:
    """A context with `count` hosts at the addresses NET.2 and following. This machine is NET.1; `key` logs in as root."""

    def __init__(self, folder: Path, count: int):
        self.folder, self.shared, self.key = folder, folder / "shared", folder / "key"
        self.ips = [f"{NET}.{number + 2}" for number in range(count)]
        self._processes: list[subprocess.Popen] = []

    def __enter__(self) -> "Hosts":
        self.shared.mkdir(parents=True)
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key)
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.folder / "host_key")
        self._remove_network()
        _run("ip", "link", "add", "dsbr", "type", "bridge")
        _run("ip", "addr", "add", f"{NET}.1/24", "dev", "dsbr")
        _run("ip", "link", "set", "dsbr", "up")
        for number, ip in enumerate(self.ips):
            self._start(number, ip)
        for ip in self.ips:
            self._wait(ip)
        return self

    def __exit__(self, *_: object) -> None:
        for number in range(len(self._processes)):
            self.kill(number)
        self._remove_network()

    def kill(self, number: int) -> None:
        """Kill a host at once, with all its processes."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._processes[number].pid, signal.SIGKILL)
        subprocess.run(["ip", "netns", "del", f"dsh{number}"], capture_output=True)
        self._processes[number].wait()

    def cut(self, number: int) -> None:
        """Cut a host's network. Its processes continue, and it still has the shared folder."""
        _run("ip", "link", "set", f"dsv{number}", "down")

    def ssh(self, number: int, command: str) -> str:
        """Run a command on a host; return what it prints."""
        return subprocess.run(self._line(number, command), capture_output=True, text=True, check=True).stdout

    def start(self, number: int, command: str) -> subprocess.Popen:
        """Start a command on a host."""
        pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(self._line(number, command), stdin=subprocess.DEVNULL, **pipe)

    def _line(self, number: int, command: str) -> list[str]:
        options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=2"]
        return ["ssh", "-q", *options, "-i", str(self.key), f"root@{self.ips[number]}", command]

    def _start(self, number: int, ip: str) -> None:
        name, home = f"dsh{number}", self.folder / f"home{number}"
        (home / ".ssh").mkdir(parents=True)
        shutil.copy(f"{self.key}.pub", home / ".ssh/authorized_keys")
        (home / ".bashrc").touch()  # Ray reads it
        passwd = self.folder / f"passwd{number}"
        lines = Path("/etc/passwd").read_text().splitlines()
        kept = [line for line in lines if not line.startswith("root:")]
        passwd.write_text("\n".join(["root:x:0:0:root:/home:/bin/bash", *kept]) + "\n")
        _run("ip", "netns", "add", name)
        _run("ip", "link", "add", f"dsv{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
        _run("ip", "link", "set", f"dsv{number}", "master", "dsbr", "up")
        for line in (
            f"addr add {ip}/24 dev eth0",
            "link set eth0 up",
            "link set lo up",
            f"route add default via {NET}.1",
        ):
            _run("ip", "-n", name, *line.split())
        options = {
            "AuthorizedKeysFile": ".ssh/authorized_keys", "HostKey": str(self.folder / "host_key"), "PermitRootLogin": "yes",
            "PidFile": "none", "StrictModes": "no", "UsePAM": "no", "MaxStartups": "100",
        }  # fmt: skip
        server = "/usr/sbin/sshd -D -e " + " ".join(f"-o {key}={value}" for key, value in options.items())
        steps = [
            f"hostname {name}",
            f"mount --bind {self.shared} {SHARED}",
            f"mount --bind {home} /home",
            f"mount --bind {passwd} /etc/passwd",
            "mkdir -p /run/sshd",
            f"cp {self.folder / 'host_key'}* /run/sshd/ ; chmod 600 /run/sshd/host_key",
            "mount -t tmpfs tmpfs /tmp",
            "exec " + server.replace(str(self.folder / "host_key"), "/run/sshd/host_key"),
        ]
        line = [
            "ip",
            "netns",
            "exec",
            name,
            "unshare",
            "--mount",
            "--pid",
            "--uts",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ]
        log = (self.folder / f"host{number}.log").open("w")
        line += ["bash", "-ec", "\n".join(steps)]
        self._processes.append(subprocess.Popen(line, stdout=log, stderr=log, start_new_session=True))

    def _wait(self, ip: str) -> None:
        end = time.monotonic() + 20
        while True:
            try:
                self.ssh(self.ips.index(ip), "true")
                return
            except subprocess.CalledProcessError:
                if time.monotonic() > end:
                    logs = [file.read_text() for file in self.folder.glob("host*.log")]
                    raise RuntimeError(f"{ip} does not answer: {logs}") from None
                time.sleep(0.2)

    def _remove_network(self) -> None:
        for number in range(len(self.ips)):
            subprocess.run(["ip", "netns", "del", f"dsh{number}"], capture_output=True)
            subprocess.run(["ip", "link", "del", f"dsv{number}"], capture_output=True)
        subprocess.run(["ip", "link", "del", "dsbr"], capture_output=True)


def _run(*line) -> None:
    done = subprocess.run([str(word) for word in line], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, line))}: {done.stderr}")
