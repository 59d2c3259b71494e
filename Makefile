# make image      draw one image on a fresh machine with Python >= 3.11      PROMPT="..." OUT=file.png
# make test       lint, types, and all tests that are quick      TESTS=tests/unit
# make check      make test, then the slow tests, every Python that is here, simulations, torture, mutants
# make simulate   random histories of servers and networks against the client's rules, and of a server that dies
#                 at any moment      HISTORIES=100000 LIVES=10000
# make torch      install torch and diffusers into .venv, for the tests of the diffusers engine; part of make check
# make ray        install Ray into .venv, for the tests of its executor; part of make check
# make docs       build the site of docs/ into build/site
# make torture    a real server, killed under load again and again: nothing acknowledged may be lost      KILLS=200
# make torture-roles    the same for two servers, four workers, PostgreSQL and S3      SECONDS_OF_ROLES=600
# make mutants    each line that keeps a promise is broken in turn: a test must fail
SHELL := /bin/bash
.ONESHELL:
.SHELLFLAGS := -euo pipefail -c

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROMPT ?= a lighthouse on a cliff at dusk, storm over the sea
OUT ?= image.png
HISTORIES ?= 100000
LIVES ?= 10000
TORCH := 2.13.0
KILLS ?= 200
SECONDS_OF_ROLES ?= 120
ENVIRONMENTS := clients langchain deploy
# Three for two cores: servers and browsers that a test waits for run meanwhile.
PYTEST = $(BIN)/python -m pytest -n 3 --dist loadfile
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# The tests start hundreds of processes; without files of bytecode, each would compile the sources again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: image test check random torch ray slow uvicorn postgres interpreters simulate torture torture-roles mutants lint types clean lock

image: $(VENV)/server.stamp
	@env -u UMRGEN_BASE_URL $(BIN)/umrgen generate "$(PROMPT)" -o "$(OUT)" --overwrite

# exec: the shell is replaced, so that a signal for make reaches pytest.
test: $(VENV)/dev.stamp $(VENV)/node.stamp lint types
	@exec $(PYTEST) -m "not slow" $(TESTS)

# One after the other, in a fixed order: the quick parts first.
check:
	@$(MAKE) --no-print-directory test
	$(MAKE) --no-print-directory docs
	$(MAKE) --no-print-directory random
	$(MAKE) --no-print-directory torch
	$(MAKE) --no-print-directory ray
	$(MAKE) --no-print-directory slow
	$(MAKE) --no-print-directory uvicorn
	$(MAKE) --no-print-directory postgres
	$(MAKE) --no-print-directory interpreters
	$(MAKE) --no-print-directory mutants
	$(MAKE) --no-print-directory simulate LIVES=2000
	$(MAKE) --no-print-directory torture KILLS=60
	$(MAKE) --no-print-directory torture-roles SECONDS_OF_ROLES=90

# The unit and conformance tests once more, with random examples in the place of the fixed ones of make test.
random: $(VENV)/dev.stamp
	@exec $(PYTEST) -m "not slow" --hypothesis-profile random tests/unit tests/conformance

# The site, with warnings as errors: a broken link, or a page that no list of docs/index.md has. -E: nothing is reused.
.PHONY: docs
docs: $(VENV)/docs.stamp
	@$(BIN)/python -m sphinx -E -W --keep-going --quiet --conf-dir scripts/site docs build/site
	echo "build/site/index.html"

torch: $(VENV)/torch.stamp

ray: $(VENV)/ray.stamp

# Without torch, the tests of the diffusers engine are skipped, and without Ray those of its executor.
slow: $(VENV)/dev.stamp $(VENV)/node.stamp $(ENVIRONMENTS:%=$(VENV)-%/clients.stamp)
	@exec $(PYTEST) --no-loadscope-reorder -m slow --hypothesis-profile random $(TESTS)

# The tests of the HTTP interface once more, with the same application on another HTTP server.
HTTP_TESTS = $(addprefix tests/integration/test_,status.py api.py outputs.py events.py uploads.py openapi.py)
uvicorn: $(VENV)/dev.stamp
	@TEST_ON_UVICORN=1 exec $(PYTEST) -m "not slow" $(HTTP_TESTS)

# The tests of the ledger in PostgreSQL once more, on Debian's PostgreSQL.
POSTGRES ?= $(lastword $(sort $(wildcard /usr/lib/postgresql/*/bin)))
POSTGRES_TESTS = tests/conformance $(addprefix tests/integration/test_,postgres_cuts.py postgres_trouble.py ledger_copy.py)
postgres: $(VENV)/dev.stamp
	@if [ -z "$(POSTGRES)" ]; then echo "Debian's PostgreSQL: not found here"; exit; fi
	UMRGEN_TEST_POSTGRES=$(POSTGRES) exec $(PYTEST) -m "not slow" -k "ostgres or copy" $(POSTGRES_TESTS)

# Lint, types, unit and conformance tests, and one picture, on each further interpreter from 3.11 on that is here.
interpreters: $(VENV)/dev.stamp
	@bash tests/interpreters.sh

# Random histories of servers and networks, played against the client's flows; then lives of a server that is
# killed at any step.
simulate: $(VENV)/dev.stamp
	@$(BIN)/python tests/simulation --histories $(HISTORIES) --jobs 2
	$(BIN)/python tests/simulation/lives.py --histories $(LIVES)

# kill -9, of the whole server or of its engine alone, under 32 submitting and waiting clients.
torture: $(VENV)/dev.stamp
	@$(BIN)/python tests/torture.py --kills $(KILLS)

# kill -9, of servers and workers that share PostgreSQL and S3, which are restarted meanwhile.
torture-roles: $(VENV)/dev.stamp
	@$(BIN)/python tests/torture_roles.py --seconds $(SECONDS_OF_ROLES)

# Break each line that keeps a promise, in a copy: a test must fail.      ONLY=name,name
mutants: $(VENV)/torch.stamp $(VENV)/ray.stamp
	@$(BIN)/python tests/mutants $(if $(ONLY),--only $(ONLY))

lint: $(VENV)/dev.stamp
	@$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python scripts/plain_language.py

types: $(VENV)/dev.stamp
	@$(BIN)/mypy
	$(BIN)/mypy tests/typed_uses.py
	$(BIN)/basedpyright --pythonpath $(BIN)/python

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

$(VENV)/docs.stamp: $(VENV)/dev.stamp requirements/docs.txt
	@echo "setting up the generator of the site (once)" >&2
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/docs.txt
	touch $@

# torch has no hash here: the platforms and accelerators have different wheels of one version. So the others, which need
# it, are installed without their dependencies, all of which the file has.
$(VENV)/torch.stamp: $(VENV)/dev.stamp requirements/diffusers.txt
	@echo "setting up torch and diffusers (once)" >&2
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements/diffusers.txt
	$(BIN)/python -m pip install --quiet torch==$(TORCH)
	touch $@

# Ray, for the tests of its executor: 80 MB, which `make test` does not need.
$(VENV)/ray.stamp: $(VENV)/dev.stamp requirements/ray.txt
	@echo "setting up Ray (once)" >&2
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/ray.txt
	touch $@

# What the guide's JavaScript sample and the JavaScript client's tests need; without Node, these skip and say so.
$(VENV)/node.stamp: tests/acceptance/js/package-lock.json js/package-lock.json | $(VENV)/server.stamp
	@if command -v npm >/dev/null; then
		npm ci --silent --no-audit --no-fund --prefix tests/acceptance/js
		npm ci --silent --no-audit --no-fund --prefix js
	fi
	touch $@

# The clients and validators of the slow tests, each set in an environment; tests without them skip and say so.
$(VENV)-%/clients.stamp: requirements/%.txt
	@echo "setting up $(VENV)-$* (once)" >&2
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --require-hashes -r $<
	touch $@

# Pin the requirements anew, from pyproject.toml; needs uv. The files name no index. UPGRADE= keeps the pins there are.
UPGRADE ?= --upgrade
COMPILE_OPTIONS = $(UPGRADE) --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-header --no-annotate --quiet
COMPILE = uv pip compile pyproject.toml $(COMPILE_OPTIONS)
lock:
	@$(COMPILE) -o requirements/base.txt
	$(COMPILE) --extra server --extra comfyui --group build -o requirements/server.txt
	$(COMPILE) --extra server --extra comfyui --extra mcp --extra postgres --extra s3 --extra c2pa --group build --group dev \
		-o requirements/dev.txt
	$(COMPILE) --extra server --extra comfyui --extra mcp --extra postgres --extra s3 --extra c2pa --group build \
		-c requirements/dev.txt -o requirements/container.txt
	for group in $(ENVIRONMENTS); do
		uv pip compile --group $$group $(COMPILE_OPTIONS) -o requirements/$$group.txt
	done
	$(COMPILE) --extra diffusers --group torch --excludes <(echo torch) \
		-c requirements/dev.txt -o requirements/diffusers.txt
	$(COMPILE) --extra ray -c requirements/dev.txt -c requirements/diffusers.txt -o requirements/ray.txt
	uv pip compile --group docs $(COMPILE_OPTIONS) $(foreach file,dev diffusers ray,-c requirements/$(file).txt) -o requirements/docs.txt

clean:
	@rm -rf $(VENV) $(VENV)-* build .mypy_cache .ruff_cache .hypothesis
