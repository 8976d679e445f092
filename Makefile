# Every target works in a fresh clone: the environment, .venv, is made when it is missing or out of date.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.PHONY: demo test test-all lint types catalogue calibration mutations

BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check --retries 10

demo: .venv/installed
	$(BIN)/zoo compare bento --out out/bento
	@echo "The report is out/bento/report.html: open it in a browser."

test: .venv/installed
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow"

test-all: .venv/installed
	@mkdir -p docs
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --disable-warnings -rpfEsxX | tee docs/test-all.txt

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed
	$(BIN)/mypy

calibration: .venv/installed
	$(BIN)/zoo calibrate --processes 2 --out docs/calibration.md

mutations: .venv/installed
	$(BIN)/python -m diagnostics.mutations docs/mutations.md

catalogue: .venv/installed
	$(BIN)/python -m diagnostics.catalogue

# A new lock gets a new environment, so that nothing outside the lock is left in it.
.venv/locked: requirements.lock
	@for name in python3 python3.12 python3.11; do \
	    if $$name -c 'import ensurepip, sys; sys.exit(sys.version_info[:2] not in [(3, 11), (3, 12)])' 2>/dev/null; then \
	        echo "Making .venv with $$name; installing takes a minute or two."; \
	        exec $$name -m venv --clear .venv; \
	    fi; \
	done; \
	echo "mixture-zoo needs Python 3.11 or 3.12 (with its venv module): install one as python3, python3.12 or python3.11." >&2; \
	exit 1
	$(PIP) install -r requirements.lock
	@touch $@

.venv/installed: .venv/locked pyproject.toml
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@
