# k3s-ha-agent: what can be made. `make help` lists it. Debian 12, as root or with sudo.
MAKEFLAGS += --no-print-directory
.NOTPARALLEL:
.DEFAULT_GOAL := help

# The lab makes mounts, containers and network namespaces; the other suites need network namespaces.
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo "sudo --preserve-env=CI,K3S_BIN,K3S_HA_AGENT_LAB_CACHE,K3S_HA_AGENT_LAB_DIR,K3S_HA_AGENT_SOAK_ROUNDS,K3S_HA_AGENT_SOAK_SEED,K3S_HA_AGENT_SOAK_FIRST")
export PYTHONDONTWRITEBYTECODE := 1

PYTHON := .venv/bin/python
PYTEST := $(PYTHON) -m pytest
NEWEST := .venv-newest/bin/python -m pytest
SUITES := tests/crash tests/lab tests/packaging tests/standin tests/dbus tests/fleet tests/client tests/api tests/unit
# Most of a test is waiting, so three files at a time on two cores; a file's tests stay together, in their order.
AT_ONCE := --numprocesses 3 --dist loadfile --quiet
# Further arguments for pytest: make lab ARGS="-k migrate -x"
ARGS :=

include packaging/packaging.mk

.PHONY: help setup lab-root lint format unit newest standin dbus generate contract api client fleet crash soak lab bench demo test clean distclean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

setup: ## install what tests need (apt-get, pip into .venv and .venv-newest); says what it does
	@tests/setup/prepare

lab-root: setup ## make the Debian root the lab's nodes stand on, once (about a minute)
	@$(SUDO) $(PYTHON) -m tests.lab.root

lint: setup ## ruff and mypy --strict
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy --strict k3s_ha_agent

format: setup ## let ruff format the sources
	$(PYTHON) -m ruff format .

unit: setup ## unit tests, with Debian's versions of the dependencies
	$(PYTEST) tests/unit $(ARGS)

newest: setup ## unit and API tests, with the newest versions of the dependencies
	$(SUDO) $(NEWEST) tests/unit tests/api tests/client $(ARGS)

standin: setup ## the stand-in k3s keeps to what real k3s was seen to do
	$(SUDO) $(PYTEST) tests/standin $(ARGS)

dbus: setup ## the systemd client, on a real dbus-daemon with a systemd1 of the tests behind it
	$(SUDO) $(PYTEST) tests/dbus $(ARGS)

generate: setup ## write man pages, completion and docs/reference anew from their sources
	$(PYTHON) packaging/generate

contract: setup ## the HTTP API against its contract, by schemathesis
	$(SUDO) $(NEWEST) tests/contract $(ARGS)

api: setup ## the HTTP API
	$(SUDO) $(PYTEST) tests/api $(ARGS)

client: setup ## the Python client, against the real API
	$(SUDO) $(PYTEST) tests/client $(ARGS)

fleet: setup ## the fleet driver, over three hundred simulated clusters
	$(SUDO) $(PYTEST) tests/fleet $(ARGS)

crash: setup ## the agent killed at every point of every plan; prints the table
	$(SUDO) env K3S_HA_AGENT_CRASH=full $(PYTEST) tests/crash -s --timeout=0 $(ARGS)

soak: setup ## random kills, aborts, restarts and reboots, 200 rounds; prints the seed and a table
	$(SUDO) env K3S_HA_AGENT_SOAK_ROUNDS=$${K3S_HA_AGENT_SOAK_ROUNDS:-200} $(PYTEST) tests/crash -k soak -s --timeout=0 $(ARGS)

lab: lab-root ## whole servers with a real systemd; K3S_BIN=/path/to/k3s takes a real k3s
	$(SUDO) $(PYTEST) tests/lab $(ARGS)

bench: lab-root ## figures: API downtime against a migration by hand, idle memory, start time; asserts no time
	@$(SUDO) $(PYTHON) -m tests.bench.downtime
	@$(SUDO) $(PYTHON) -m tests.bench.idle

demo: lab-root ## watch a server move to etcd, and a sabotaged one roll back by itself
	@$(SUDO) $(PYTHON) -m tests.lab.demo

test: lab-root lint ## everything above
	$(SUDO) $(NEWEST) $(AT_ONCE) tests/contract tests/api tests/client tests/unit
	$(SUDO) $(PYTEST) $(AT_ONCE) $(SUITES) $(ARGS)

clean: ## remove what builds and killed test runs left behind
	@if [ -d /run/k3s-ha-agent-lab ]; then $(SUDO) /usr/bin/python3 -m tests.lab.clean; fi
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
	find . -name .venv\* -prune -o -name __pycache__ -type d -exec rm -rf {} +

distclean: clean ## clean, and remove the virtual environments (the lab's root stays in /var/cache)
	rm -rf .venv .venv-newest
