# `make demo` and `make test` need Python 3.11 to 3.14 and nothing else: at first use they make .venv and fill it.
# Another Python: make demo PYTHON=/path/to/python3.12

MAKEFLAGS += --no-print-directory
# Where nothing compiled is kept, each process that the tests start compiles torch anew, for 12 s (uv compiles nothing).
export PYTHONDONTWRITEBYTECODE :=
VENV := .venv
OLDEST := .venv-oldest
PYTHON ?=
CANDIDATES := $(if $(PYTHON),$(PYTHON),python3.13 python3.12 python3.11 python3.14 python3 python)
# The lowest versions have wheels up to 3.13; the oldest Python suits them best.
OLDEST_CANDIDATES := $(if $(PYTHON),$(PYTHON),python3.11 python3.12 python3.13 python3 python)

# What runs with the lowest versions: the laws, the command line, storage, exports, and the parts of timm underneath.
# In a random order; SEED=7 repeats the one of that seed.
OLDEST_TESTS := tests/laws tests/cli tests/runtime tests/pretrained tests/backbones/test_timm_interface.py tests/backbones/test_timm_private.py
SEED := $(shell date +%s)

.PHONY: help demo check test test-oldest docs

help:
	@echo "make demo          token reduction on handwritten digits: a table and a page; no data needed"
	@echo "make check         style and types, without changing anything"
	@echo "make test          all tests"
	@echo "make docs          the site of docs/, into build/site; a warning is an error"
	@echo "make test-oldest   the main tests with the lowest versions that pyproject.toml allows, in a random order"

demo: $(VENV)/.installed
	@$(VENV)/bin/python -m vitrim demo --out demo.html

test: $(VENV)/.installed
	@$(VENV)/bin/python -m pytest -n auto --dist worksteal

test-oldest: $(OLDEST)/.installed
	@echo "random order: make test-oldest SEED=$(SEED)"
	@$(OLDEST)/bin/python -m pytest -n auto --dist worksteal --random-order --random-order-seed=$(SEED) $(OLDEST_TESTS)

check: $(VENV)/.installed
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/ty check

docs: $(VENV)/.installed-docs
	@NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict --quiet
	@echo "the site is in build/site: open build/site/index.html; its search needs a server: python3 -m http.server -d build/site"

# make_venv FOLDER, CANDIDATES, LAST: an environment with the first candidate from Python 3.11 to 3.LAST
define make_venv
	@test -x $(1)/bin/python || { \
	  for name in $(2); do \
	    if command -v "$$name" >/dev/null 2>&1 && "$$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, $(3) + 1))' >/dev/null 2>&1; then found="$$name"; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "$(1) needs Python 3.11 to 3.$(3); tried: $(2). Install one, or: make PYTHON=/path/to/python" >&2; \
	    exit 1; \
	  fi; \
	  if ! "$$found" -c 'import venv, ensurepip' >/dev/null 2>&1; then \
	    echo "$$found has no working venv module (ensurepip is missing); on Debian or Ubuntu: apt install python3-venv" >&2; \
	    exit 1; \
	  fi; \
	  echo "making $(1) with $$found"; \
	  "$$found" -m venv $(1); \
	}
	@echo "installing torch, timm and the rest into $(1): a few minutes, about 6 GB"
endef

# The stamps are written last, so what was interrupted starts again.
$(VENV)/.installed: pyproject.toml
	$(call make_venv,$(VENV),$(CANDIDATES),14)
	@$(VENV)/bin/python -m pip install -qq --disable-pip-version-check -e ".[test,check]"
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	@$(VENV)/bin/python -m pip install -qq --disable-pip-version-check -e ".[docs]"
	@touch $@

# pip cannot choose the lowest versions, uv can. It keeps no cache: that would be another 6 GB.
$(OLDEST)/.installed: pyproject.toml
	$(call make_venv,$(OLDEST),$(OLDEST_CANDIDATES),13)
	@$(OLDEST)/bin/python -m pip install -qq --disable-pip-version-check uv
	@$(OLDEST)/bin/uv pip install -q --no-cache --python $(OLDEST)/bin/python --resolution lowest-direct -e ".[test]"
	@touch $@
