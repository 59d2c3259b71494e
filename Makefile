# make image   draw one image on a fresh machine with Python >= 3.11      PROMPT="..." OUT=file.png
# make simulate   a hundred thousand random histories of servers and networks against the client's rules, and
#                 ten thousand of a server that dies at any moment
# make torture    a real server, killed two hundred times under load: nothing acknowledged may be lost
# make test    everything that can be tested here: lint, types, all tests
SHELL := /bin/bash
.ONESHELL:
.SHELLFLAGS := -euo pipefail -c

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROMPT ?= a lighthouse on a cliff at dusk, storm over the sea
OUT ?= image.png
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: image test simulate torture lint types clean lock

image: $(VENV)/server.stamp
	@env -u UMRGEN_BASE_URL $(BIN)/umrgen generate "$(PROMPT)" -o "$(OUT)" --overwrite

test: $(VENV)/dev.stamp $(VENV)/node.stamp lint types
	@$(BIN)/python -m pytest -n 2 --dist loadfile

# 100,000 random histories of servers and networks, played against the client's flows; then 10,000 lives of
# a server that is killed at any step.
simulate: $(VENV)/dev.stamp
	@$(BIN)/python tests/simulation --histories 100000 --jobs 2
	@$(BIN)/python tests/simulation/lives.py --histories 10000

# 200 x kill -9, of the whole server or of its engine alone, under 32 submitting and waiting clients.
torture: $(VENV)/dev.stamp
	@$(BIN)/python tests/torture.py --kills 200

lint: $(VENV)/dev.stamp
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(VENV)/dev.stamp
	@$(BIN)/mypy

# The pinned requirements first, then the project itself, which needs nothing further.
define install
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/$(1).txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@
endef

$(VENV)/server.stamp: requirements/server.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("UMRGEN needs Python 3.11 or newer; set PYTHON=...") if sys.version_info < (3, 11) else None'
	@echo "setting up $(VENV) (once)" >&2
	@$(call install,server)

$(VENV)/dev.stamp: $(VENV)/server.stamp requirements/dev.txt
	@echo "setting up the tests' tools (once)" >&2
	@$(call install,dev)

# What the guide's JavaScript sample and the JavaScript client's tests need; without Node, these skip and say so.
$(VENV)/node.stamp: tests/acceptance/js/package-lock.json js/package-lock.json | $(VENV)/server.stamp
	@if command -v npm >/dev/null; then
		npm ci --silent --no-audit --no-fund --prefix tests/acceptance/js
		npm ci --silent --no-audit --no-fund --prefix js
	fi
	touch $@

# Pin the requirements anew; needs uv. The files name no index.
lock:
	@cd requirements
	for name in base server dev; do
		uv pip compile --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
			--no-emit-find-links --no-header --no-annotate --quiet $$name.in -o $$name.txt
	done

clean:
	@rm -rf $(VENV) .mypy_cache .ruff_cache .hypothesis
