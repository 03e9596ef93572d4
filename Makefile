# What a newcomer needs: `make demo` (see it work) and `make test` (see that it works).
# Needs only python3 >= 3.11 with pip and venv.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/pip --disable-pip-version-check --quiet

.PHONY: demo test check format test-clients test-ccr test-engines test-mutants test-faults bench bench-prefix screenshots soak clean

demo: $(VENV)/.run
	@$(BIN)/chiasm demo

test: $(VENV)/.dev check
	@tests/install_redis.sh
	@tests/install_chromium.sh
	@tests/install_proxies.sh
	$(BIN)/pytest -n 2 --dist loadgroup
	tests/clients/run.sh --quick

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# All sixteen real clients, each installed into a folder of its own under .clients (minutes, and three gigabytes, the
# first time); seven of them, which install in seconds, are part of `make test`.
test-clients: $(VENV)/.dev
	tests/clients/run.sh

# claude-code-router 1 and 2 as Claude Code asks them, over Messages and over Chat Completions.
test-ccr: $(VENV)/.dev
	tests/clients/run.sh claude-code-router-1 claude-code-router-2

# Real engines with tiny models, under .engines (llama.cpp's server is built first).  ENGINES=llamacpp for one of them.
test-engines: $(VENV)/.dev
	tests/engines/run.sh

# Whether the tests notice when the core is changed.
test-mutants: $(VENV)/.dev
	tests/mutants/run.sh

# Every fault of brain, eyes and store in every phase, fifty thousand bodies that no client would send, and ten thousand
# clients that leave (minutes); a part of each is in `make test`.
test-faults: $(VENV)/.dev
	CHIASM_FAULTS=1 $(BIN)/pytest -n 2 tests/test_faults.py
	CHIASM_FAULTS=1 $(BIN)/pytest tests/test_load.py
	CHIASM_FUZZ=50000 $(BIN)/pytest tests/test_fuzz.py

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/overhead.py

# How much of each prompt a prefix cache can use again, in a long session.
bench-prefix: $(VENV)/.dev
	$(BIN)/python -m benchmarks.prefix

# The pictures of the admin page in docs/images.
screenshots: $(VENV)/.dev
	@tests/install_chromium.sh
	$(BIN)/python -m tests.admin_screenshots

# Whether anything grows: twenty thousand exchanges, good and bad (five minutes).  EXCHANGES=100000 for the long one.
EXCHANGES ?= 20000
soak: $(VENV)/.dev
	$(BIN)/python -m benchmarks.soak $(EXCHANGES)

# The environments: the lock file names every package by version and hash; the project itself is linked in.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Chiasm needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements/run.lock pyproject.toml | $(VENV)/bin/python
	@echo "installing into $(VENV) (about a minute the first time)"
	@$(PIP) install --require-hashes -r requirements/run.lock
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements/dev.lock pyproject.toml | $(VENV)/bin/python
	@echo "installing into $(VENV) with the development extras (about a minute the first time)"
	@$(PIP) install --require-hashes -r requirements/dev.lock
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/.run

clean:
	rm -rf $(VENV)
