"""Asks an API server's /readyz every 20 ms and measures how long it was away.

    python -m tests.bench.probe HOST CA CERTIFICATE KEY

Says ``ready`` at the first good answer. At the end of its input it prints what it saw, as JSON. A program of its own,
because it runs in the lab's network, outside the node. One connection is kept, as clients do; a new one is made when it
breaks. An outage lasts from the last good answer before a bad one to the next good answer.
"""

from __future__ import annotations

import http.client
import json
import select
import ssl
import sys
import time

EVERY = 0.020
LIMIT = 1.0
"""Seconds an answer may take; without one it is a bad answer."""


def main() -> None:
    host, ca, certificate, key = sys.argv[1:]
    context = ssl.create_default_context(cafile=ca)
    context.check_hostname = False  # the lab's address need not be in it; who it is, is known by the CA
    context.load_cert_chain(certificate, key)
    connection = http.client.HTTPSConnection(host, 6443, timeout=LIMIT, context=context)
    outages: list[float] = []
    probes, last_good, away = 0, 0.0, False
    due = time.monotonic()
    while True:
        probes += 1
        good = ready(connection)
        now = time.monotonic()
        if good and not last_good:
            print("ready", flush=True)
        if good and away:
            outages.append(now - last_good)
            away = False
        if good:
            last_good = now
        elif last_good:
            away = True
        due = max(due + EVERY, now)
        if select.select([sys.stdin], [], [], due - now)[0]:
            break
    print(json.dumps({"outages": outages, "probes": probes, "away_at_the_end": away}), flush=True)


def ready(connection: http.client.HTTPSConnection) -> bool:
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException):
        connection.close()
        return False
    return answer.status == 200


if __name__ == "__main__":
    main()
