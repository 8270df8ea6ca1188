"""A server: a machine with k3s and the agent on it, and what tests ask it."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from collections.abc import Mapping
from typing import Any

import yaml

from tests.lab import datastore
from tests.lab.datastore import Keys
from tests.lab.machine import Machine
from tests.lab.system import LabError

K3S = "k3s.service"
AGENT = "k3s-ha-agent.service"
SOCKET = "/run/k3s-ha-agent/api.sock"
SERVER = "/var/lib/rancher/k3s/server"
STANDIN_CONFIG = "/etc/k3s-standin.yaml"

AGENT_SETTINGS: Mapping[str, object] = {
    "stability_window": "2s",
    # The machine's disk is not under test here; scenarios about a slow disk set these themselves.
    "fsync_warn": "5s",
    "fsync_refuse": "10s",
}
"""What differs from the agent's defaults in a node."""


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer, taken with curl inside the node."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    text: str

    @property
    def json(self) -> Any:
        try:
            return json.loads(self.text)
        except ValueError:
            raise LabError(f"The answer ({self.status}) is not JSON: {self.text[:500]}") from None


class Node(Machine):
    """See README.md for how a scenario uses it."""

    # --- setting up, before the first boot ------------------------------------------------------

    def k3s_seed(self, rows: int = 200, **options: object) -> Keys:
        """Put the recorded datastore and ``rows`` more ConfigMaps below the data dir, of which each tenth is written
        once more and each tenth deleted again. What is added stands only in the WAL, as k3s leaves it (k3s-facts,
        "Seen" 2). The live keys that are there then.

        ``options`` are those of ``k3s standin-seed``: ``bytes=``, ``leased=``, ``prefix=``, … k3s must not be running.
        """
        given = {"configmaps": rows, "updates": rows // 10, "deletes": rows // 10, **options}
        argv = ["k3s", "standin-seed", *(f"--{name}={value}" for name, value in given.items())]
        if self.running:
            self.exec(argv)
        else:
            self.chroot(argv)
        return self.kine_live()

    def standin(self, **config: object) -> None:
        """Write the stand-in's configuration: ``version=``, ``faults={…}``, ``speed={…}``; read at its next start."""
        self.write(STANDIN_CONFIG, yaml.safe_dump(config))

    def agent_settings(self, **settings: object) -> None:
        """Set the agent's settings in conf.d: the lab's defaults and what is given; read at its next start."""
        self.write("/etc/k3s-ha-agent/conf.d/lab.yaml", yaml.safe_dump({**AGENT_SETTINGS, **settings}))

    def k3s_config(self, **config: object) -> None:
        """Write /etc/rancher/k3s/config.yaml; names with ``_`` for ``-``."""
        text = yaml.safe_dump({name.replace("_", "-"): value for name, value in config.items()})
        self.write("/etc/rancher/k3s/config.yaml", text, mode=0o600)

    # --- k3s -------------------------------------------------------------------------------------

    def wait_for_k3s(self, timeout: float = 180.0) -> None:
        """Until the unit is active and the API server ready."""
        self.wait_for(self.k3s_ready, timeout=timeout, what="k3s is ready")

    def k3s_ready(self) -> bool:
        return self.active(K3S) and self.kubectl("/readyz", timeout=5.0).status == 200

    def kubectl(self, path: str, method: str = "GET", body: object = None, *, timeout: float = 30.0) -> Answer:
        """Ask the API server as ``kubectl get --raw`` does, with the admin's certificate. Status 0: no answer."""
        tls = f"{SERVER}/tls"
        certificates = ["--cacert", f"{tls}/server-ca.crt", "--cert", f"{tls}/client-admin.crt"]
        certificates += ["--key", f"{tls}/client-admin.key"]
        return self._curl([*certificates, f"https://127.0.0.1:6443{path}"], method, body, {}, timeout, check=False)

    def create_config_map(self, name: str, namespace: str = "default", **data: str) -> None:
        """Write an object through the API server, as a user does."""
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data or {"name": name}}
        answer = self.kubectl(f"/api/v1/namespaces/{namespace}/configmaps", "POST", body)
        if answer.status != 201:
            raise LabError(
                f"{self.name}: the API server does not take ConfigMap {name}: {answer.status} {answer.text[:500]}"
            )

    def roles(self, name: str | None = None) -> set[str]:
        """The roles of a Node as its labels say (this one by default): ``{"control-plane", "etcd", …}``."""
        labels = self.kubectl(f"/api/v1/nodes/{name or self.name}").json["metadata"].get("labels", {})
        return {label.partition("/")[2] for label in labels if label.startswith("node-role.kubernetes.io/")}

    # --- the datastore, read without the agent's code ------------------------------------------------

    def kine_live(
        self, prefix: str = "/registry/", state_db: str = f"{SERVER}/db/state.db", *, wal: bool = True
    ) -> Keys:
        """Live keys of the SQLite datastore with its WAL; safe while k3s runs, and when the node is off.

        ``wal=False`` looks at the main file alone: what would be left of a copy that forgets the WAL.
        """
        return datastore.kine_live(self.path(state_db), prefix, wal=wal)

    def etcd_live(self, prefix: str = "/registry/", revision: int = 0) -> Keys:
        """Keys of the running etcd, by etcdctl; ``revision`` 0 is now."""
        return self._etcd_get(prefix, f"--rev={revision}")[1]

    def etcd_revision(self) -> int:
        """The revision etcd is at."""
        return self._etcd_get("/registry/", "--limit=1", "--keys-only")[0]

    def _etcd_get(self, prefix: str, *options: str) -> tuple[int, Keys]:
        argv = ["get", "--write-out=json", "--prefix", *options, prefix]
        return datastore.etcd_answer(self.etcdctl(*argv).stdout)

    def etcdctl(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """etcdctl on this server's etcd, with the certificates k3s makes for clients."""
        tls = f"{SERVER}/tls/etcd"
        options = ["--endpoints=https://127.0.0.1:2379", "--command-timeout=30s", f"--cacert={tls}/server-ca.crt"]
        options += [f"--cert={tls}/client.crt", f"--key={tls}/client.key"]
        return self.exec(["etcdctl", *options, *arguments], check=check, environment={"ETCDCTL_API": "3"})

    # --- the agent --------------------------------------------------------------------------------------

    def wait_for_agent(self, timeout: float = 60.0) -> None:
        """Until its unit is active and its API says it is ready."""
        self.wait_for(self.agent_ready, timeout=timeout, what="the agent is ready")

    def agent_ready(self) -> bool:
        return self.active(AGENT) and self._agent_curl("GET", "/readyz", None, {}, 5.0, check=False).status == 200

    def api(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float = 120.0,
    ) -> Answer:
        """Ask the agent through its socket, as root, by curl. ``body`` goes as JSON. LabError when nobody answers."""
        return self._agent_curl(method, path, body, headers or {}, timeout, check=True)

    def operation(self) -> dict[str, Any]:
        """The newest operation as the API shows it."""
        listed = self.api("GET", "/v1/operations").json
        newest = (listed["operations"] if isinstance(listed, dict) else listed)[0]
        found: dict[str, Any] = self.api("GET", f"/v1/operations/{newest['id']}").json
        return found

    def ctl(self, *arguments: str, check: bool = False, timeout: float = 300.0) -> subprocess.CompletedProcess[str]:
        """Run ``k3s-ha-agentctl``; the exit code is the caller's to look at."""
        return self.exec(["k3s-ha-agentctl", *arguments], check=check, timeout=timeout)

    def start_ctl(self, *arguments: str) -> subprocess.Popen[str]:
        """Start ``k3s-ha-agentctl`` and do not wait for it."""
        return self.spawn(["k3s-ha-agentctl", *arguments])

    def kill_agent(self) -> None:
        """SIGKILL for the agent; systemd starts it again after 2 s."""
        self.systemctl("kill", "--kill-who=main", "--signal=KILL", AGENT)

    def lose_agent(self) -> None:
        """SIGKILL for the agent, and nobody starts it again: its unit is gone. The rescue and all state stay."""
        self.remove("/etc/systemd/system/multi-user.target.wants/k3s-ha-agent.service")
        self.remove("/lib/systemd/system/k3s-ha-agent.service")
        self.systemctl("daemon-reload")
        self.systemctl("kill", "--kill-who=all", "--signal=KILL", AGENT)

    # --- below ------------------------------------------------------------------------------------------

    def diagnosis(self) -> str:
        if not self.exists("/var/log/journal"):
            return super().diagnosis()
        parts = []
        for unit in (K3S, AGENT, "k3s-ha-agent-rescue.service"):
            journal = self.journal(unit)
            if journal.strip():
                parts.append(f"--- journal of {unit} on {self.name}, its end\n{journal[-6000:]}")
        return "\n".join(parts) or super().diagnosis()

    def _agent_curl(
        self, method: str, path: str, body: object, headers: Mapping[str, str], timeout: float, *, check: bool
    ) -> Answer:
        arguments = ["--unix-socket", SOCKET, f"http://localhost{path}"]
        return self._curl(arguments, method, body, headers, timeout, check=check)

    def _curl(
        self,
        arguments: list[str],
        method: str,
        body: object,
        headers: Mapping[str, str],
        timeout: float,
        *,
        check: bool,
    ) -> Answer:
        """``timeout`` in seconds is curl's; without ``check`` no answer is status 0."""
        argv = ["curl", "--silent", "--show-error", "--include", "--max-time", f"{timeout:g}"]
        argv += ["--head"] if method == "HEAD" else ["--request", method]
        given = dict(headers)
        if body is not None:
            given.setdefault("Content-Type", "application/json")
            given.setdefault("Expect", "")
            argv += ["--data-binary", "@-"]
        for name, value in given.items():
            argv += ["--header", f"{name}: {value}" if value else f"{name}:"]
        text = None if body is None else body if isinstance(body, str) else json.dumps(body)
        done = self.exec([*argv, *arguments], input=text, check=check, timeout=timeout + 30)
        return _answer(done.stdout) if done.returncode == 0 else Answer(0, {}, done.stderr)


def _answer(text: str) -> Answer:
    """The answer curl --include printed (universal newlines have been applied)."""
    head, _, body = text.partition("\n\n")
    first, *lines = head.splitlines()
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Answer(int(first.split()[1]), headers, body)
