# `make demo` and `make test` need Python 3.11 to 3.14 and nothing else: at first use they make .venv and fill it.
# Another Python: make demo PYTHON=/path/to/python3.12

MAKEFLAGS += --no-print-directory
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
PYTHON ?=
CANDIDATES := $(if $(PYTHON),$(PYTHON),python3.13 python3.12 python3.11 python3.14 python3 python)
FITS := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))

.PHONY: help demo test lint

help:
	@echo "make demo   token reduction on handwritten digits: a table and a page; no data needed"
	@echo "make test   all tests"
	@echo "make lint   ruff, without changing anything"

demo: $(READY)
	@$(BIN)/python -m vitrim demo

test: $(READY)
	@$(BIN)/python -m pytest

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

# The stamp is written last, so what was interrupted starts again.
$(READY): pyproject.toml
	@test -x $(BIN)/python || { \
	  for name in $(CANDIDATES); do \
	    if command -v "$$name" >/dev/null 2>&1 && "$$name" -c '$(FITS)' >/dev/null 2>&1; then found="$$name"; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "vitrim needs Python 3.11 to 3.14; tried: $(CANDIDATES). Install one, or: make PYTHON=/path/to/python" >&2; \
	    exit 1; \
	  fi; \
	  if ! "$$found" -c 'import venv, ensurepip' >/dev/null 2>&1; then \
	    echo "$$found has no working venv module (ensurepip is missing); on Debian or Ubuntu: apt install python3-venv" >&2; \
	    exit 1; \
	  fi; \
	  echo "making $(VENV) with $$found"; \
	  "$$found" -m venv $(VENV); \
	}
	@echo "installing torch, timm and the rest into $(VENV): a few minutes, about 6 GB"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -e ".[test]"
	@touch $@
