"""Below the process: SIGKILL, EIO and ENOSPC at the system calls that change files, of the agent and of the rescue.

A share here, the same in every run; all of it by ``make crash``.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.crash.below import in_need, rescue_relay
from tests.crash.look import look, one_datastore, rest_is_quiet
from tests.crash.matrix import Station, station
from tests.crash.run import Report, run_below, table
from tests.crash.syscalls import careless, parse, unsynced
from tests.crash.ways import WAYS

FULL = os.environ.get("K3S_HA_AGENT_CRASH") == "full"
BY_NAME = {way.name: way for way in WAYS}


def told(report: Report) -> None:
    print(table(report))
    if report.broken:
        pytest.fail("\n\n".join(report.broken), pytrace=False)
    missed = [str(r) for r in report.results if not r.hit]
    if missed or not report.good:
        pytest.fail(f"{report.hit} of {len(report.planned)} hit, not: {missed}", pytrace=False)


@pytest.mark.timeout(14400)
def test_the_agent_killed_at_a_system_call() -> None:
    told(run_below(WAYS, errors=False, share=1 if FULL else 24, offset=0 if FULL else 7))


@pytest.mark.timeout(14400)
def test_the_disk_fails_at_a_system_call() -> None:
    """Once or from then on; nothing is taken away after a durable write that failed, and it ends proven or loudly."""
    told(run_below(WAYS, errors=True, share=1 if FULL else 32, offset=0 if FULL else 9))


PLACES = [("migrate forward", "after do start-k3s"), ("rollback forward", "after do restore-sqlite")]
MORE_PLACES = [
    *PLACES,
    ("migrate forward", "after do seal-pre-image"),
    ("migrate forward", "after do prove"),
    ("migrate back", "after undo seal-pre-image"),
    ("rollback forward", "after do disable-etcd"),
    ("rollback back", "after undo retire-etcd"),
]
STRIKES = [("fsync", ""), ("rename", ""), ("unlink", ""), ("write", ""), ("fsync", "EIO"), ("write", "ENOSPC")]
MORE_STRIKES = [*STRIKES, ("mkdir", ""), ("rmdir", ""), ("rename", "EIO"), ("unlink", "EIO"), ("mkdir", "ENOSPC")]


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("way", "point"), MORE_PLACES if FULL else PLACES)
def test_the_rescue_struck_again_and_again(way: str, point: str) -> None:
    """Each time at a later call of the name, until one runs clean; then the node is back, and the agent agrees."""
    struck = {}
    with station() as place:
        for number, (call, error) in enumerate(MORE_STRIKES if FULL else STRIKES):
            if not FULL and number % 2 != PLACES.index((way, point)):
                continue
            struck[f"{error or 'killed'} at {call}"] = _strike(place, way, point, call, error)
    print(f"{way}, agent dead {point}: {struck}")
    # Where nothing has been moved yet, no directory has to be made.
    missed = [name for name, times in struck.items() if not times and not name.endswith("mkdir")]
    assert not missed, "a strike did not hit"


def _strike(place: Station, name: str, point: str, call: str, error: str) -> int:
    way = BY_NAME[name]
    with place.at(way) as node:
        before = node.keys()
        in_need(node, way, point)
        operation = node.records()[-1]["id"]
        struck = rescue_relay(node, call, error)
        one_datastore(node, way.begins_on == "etcd", before)
        node.start_agent()
        node.stop_agent()
        assert look(node, way, before, operation) == "rolled_back"
        rest_is_quiet(node)
        return struck


def test_a_careless_act_is_found(tmp_path: Path) -> None:
    """What the tests above look for, on calls as strace writes them."""
    db = f"{tmp_path}/k3s/server/db"
    failed = f"fsync(9<{tmp_path}/q>) = -1 EIO (Input/output error) (INJECTED)\n"
    again = f"fsync(9<{tmp_path}/q>)   = 0\n"
    taken = f'rename("{db}/state.db", "{tmp_path}/q/state.db") = 0\n'
    record = f"fsync(3<{tmp_path}/state/operations/x>) = 0\n"
    assert "state.db" in careless(parse(failed + taken), tmp_path)
    assert careless(parse(failed + again + taken), tmp_path) == ""
    assert careless(parse(failed + record + taken), tmp_path) == ""
    spared = f'unlink("{db}/.x.tmp") = -1 EIO (Input/output error) (INJECTED)\n'
    absent = f'unlink("{db}/.x.tmp") = -1 ENOENT (No such file or directory)\n'
    assert ".x.tmp" in careless(parse(spared + taken), tmp_path)
    assert careless(parse(spared + absent + taken), tmp_path) == ""
    assert careless(parse(taken + failed), tmp_path) == ""


def test_a_missing_sync_is_found(tmp_path: Path) -> None:
    record, db, kept = f"{tmp_path}/state/operations/x", f"{tmp_path}/k3s/server/db", f"{tmp_path}/k3s/k3s-ha-agent/q"
    moved = f'rename("{db}/etcd", "{kept}/etcd") = 0\n'
    synced = f"fsync(3<{kept}>) = 0\nfsync(3<{db}>) = 0\n"
    written = f"write(3<{record}/.record.json.tmp>, ...) = 9\nfsync(3<{record}/.record.json.tmp>) = 0\n"
    said = f'{written}rename("{record}/.record.json.tmp", "{record}/record.json") = 0\n'
    whole = f"{moved}{synced}{said}fsync(3<{record}>) = 0\n{moved}"
    assert unsynced(parse(whole), tmp_path) == ""
    for line in (f"fsync(3<{kept}>)", f"fsync(3<{db}>)", f"fsync(3<{record}/.record.json.tmp>)", f"fsync(3<{record}>)"):
        assert unsynced(parse(whole.replace(f"{line} = 0\n", "", 1)), tmp_path), line
