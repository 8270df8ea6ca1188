from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from k3s_ha_agent.host import addresses, resources


def test_memory_is_the_kernels() -> None:
    lines = Path("/proc/meminfo").read_text().splitlines()
    total = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal"))
    found = resources.memory()
    assert found.total == total and 0 < found.available < found.total


def test_disk_of_a_path_that_is_not_there_yet(tmp_path: Path) -> None:
    found = resources.disk(tmp_path / "not" / "there")
    assert found.device == tmp_path.stat().st_dev
    assert 0 <= found.free <= found.total
    assert resources.disk(Path("/proc/self")).device != found.device


def test_listening_says_who(tmp_path: Path) -> None:
    with socket.socket() as one, socket.socket(socket.AF_INET6) as six, socket.socket() as idle:
        one.bind(("127.0.0.1", 0))
        one.listen()
        port = one.getsockname()[1]
        six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        six.bind(("::1", port))
        six.listen()
        idle.bind(("127.0.0.1", 0))
        free = idle.getsockname()[1]
        found = resources.listening([port, free])
    assert set(found) == {port}
    assert {(each.pid, each.address) for each in found[port]} == {(os.getpid(), "127.0.0.1"), (os.getpid(), "::1")}
    assert all(each.name for each in found[port])


def test_fsync_probe_measures_and_leaves_nothing(tmp_path: Path) -> None:
    found = resources.fsync_probe(tmp_path, rounds=20)
    assert found.rounds == 20 and 0 < found.p50 <= found.p99 <= found.max
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match="none"):
        resources.fsync_probe(tmp_path / "none")


def test_fsync_probe_really_syncs(tmp_path: Path) -> None:
    """Each round reaches the kernel as an fdatasync: with every one delayed the figures show it."""
    script = (
        "import sys; from pathlib import Path; from k3s_ha_agent.host import resources\n"
        "print(resources.fsync_probe(Path(sys.argv[1]), rounds=5).p50)"
    )
    delayed = [
        "strace",
        "-f",
        "-qq",
        "-e",
        "trace=fdatasync",
        "-e",
        "inject=fdatasync:delay_enter=100000",
        "-o",
        os.devnull,
    ]
    run = subprocess.run([*delayed, sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, check=True)
    assert float(run.stdout) >= 0.1


def test_percentile_is_the_nearest_rank() -> None:
    values = [float(n) for n in range(1, 101)]
    assert [resources.percentile(values, p) for p in (0, 1, 50, 99, 100)] == [1, 1, 50, 99, 100]
    assert resources.percentile([7.0], 99) == 7.0
    assert resources.percentile([1.0, 2.0, 3.0], 99) == 3.0
    with pytest.raises(ValueError, match="no values"):
        resources.percentile([], 50)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ('[ "$*" = "show --property=NTPSynchronized --value" ] && echo yes', True),
        ("echo no", False),
        ("echo", OSError),
        ("echo Failed to connect to bus >&2; exit 1", OSError),
    ],
)
def test_clock_as_timedatectl_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, expected: bool | type[OSError]
) -> None:
    program = tmp_path / "timedatectl"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    if isinstance(expected, bool):
        assert resources.clock_synchronised() is expected
    else:
        with pytest.raises(expected):
            resources.clock_synchronised()


def test_boot_id_and_start_time() -> None:
    assert len(resources.boot_id()) == 36
    assert resources.process_start_time(os.getpid()) == resources.process_start_time(os.getpid())
    child = subprocess.Popen(["sleep", "1000"])
    started = resources.process_start_time(child.pid)
    mine = resources.process_start_time(os.getpid())
    assert started is not None and mine is not None and started >= mine
    child.kill()
    child.wait()
    assert resources.process_start_time(child.pid) is None


def test_start_time_behind_a_nasty_name() -> None:
    fields = " ".join(str(n) for n in range(4, 53))
    assert resources.parse_start_time(f"12 (a) S) 9 (x)) S {fields}\n") == 22


def test_addresses_of_this_machine() -> None:
    found = {str(each.address): each for each in addresses.addresses()}
    assert found["127.0.0.1"].interface == "lo" and found["127.0.0.1"].prefix == 8
    assert not found["127.0.0.1"].dynamic
    assert addresses.address_is_dynamic("127.0.0.1") is False
    assert addresses.address_is_dynamic("192.0.2.77") is None


def test_address_with_a_lifetime() -> None:
    """In a network namespace of its own: an address as a DHCP client sets it, and one set for good."""
    script = (
        "import json\nfrom k3s_ha_agent.host.addresses import addresses\n"
        "print(json.dumps({str(a.address): [a.interface, a.prefix, a.dynamic] for a in addresses()}))"
    )
    setup = (
        "ip link set lo up && ip link add d0 type veth peer name d1 && ip link set d0 up && "
        "ip addr add 10.1.2.3/24 dev d0 valid_lft 3600 preferred_lft 3600 && ip addr add 10.1.2.4/24 dev d0 && "
        "ip -6 addr add 2001:db8::5/64 dev d0 valid_lft 3600 preferred_lft 1800 nodad && "
        'ip -6 addr add 2001:db8::6/64 dev d0 nodad && exec "$0" -c "$1"'
    )
    run = subprocess.run(
        ["unshare", "--net", "sh", "-c", setup, sys.executable, script], stdout=subprocess.PIPE, check=True
    )
    found = json.loads(run.stdout)
    assert found["10.1.2.3"] == ["d0", 24, True]
    assert found["10.1.2.4"] == ["d0", 24, False]
    assert found["2001:db8::5"] == ["d0", 64, True]
    assert found["2001:db8::6"] == ["d0", 64, False]


def test_netlink_error_is_an_error() -> None:
    message = (
        (36).to_bytes(4, "little") + (2).to_bytes(2, "little") + bytes(10) + (-1).to_bytes(4, "little", signed=True)
    )
    with pytest.raises(PermissionError):
        addresses.parse_messages(message + bytes(16))
