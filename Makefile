# `make` alone lists what there is. Everything runs in .venv, which is made when it is first needed.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
PY := $(BIN)/python
READY := .venv/.ready
NOTEBOOKS = $(shell find nbs -name '*.ipynb' -not -path '*/.*' | sort)
# One test worker a core, and one thread a worker: two threads in each of two workers only wait for each other.
JOBS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); echo $$((n > 8 ? 8 : n)))
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
# Ours goes first on PATH, so that a notebook's kernel is the one in .venv.
export PATH := $(CURDIR)/$(BIN):$(PATH)
unexport PYTHONHOME

.PHONY: help demo suite test lab docs preview notebooks export clean check readme bench dist setup assets browser

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# --- Use ---

demo: $(READY) ## run the main job on the embedded images; the result lands in runs/demo/
	@$(BIN)/sft-nb demo

lab: $(READY) ## open JupyterLab on the tutorial
	@$(BIN)/jupyter lab $$([ "$$(id -u)" != 0 ] || echo --allow-root) nbs/tutorials/01_first_report.ipynb

# --- Work on it ---

test: $(READY) assets browser ## run all tests (ARGS="-k splits" for some of them)
	@$(ONE_THREAD) $(PY) -m pytest -n $(JOBS) --dist loadscope --no-loadscope-reorder $(ARGS)

check: $(READY) ## are the notebooks clean, exported and in shape? runs none of them, changes nothing
	@$(PY) -m pytest tests/test_architecture.py tests/test_notebooks.py -k "not runs"

export: $(READY) ## write sft_nb/, the sidebar and README.md from the notebooks
	@$(BIN)/nbdev-export
	@$(PY) docs/sidebar.py
	@if [ -f nbs/index.ipynb ]; then $(PY) docs/readme.py; fi

clean: $(READY) ## strip what changes by itself from the notebooks; outputs stay
	@$(BIN)/nbdev-clean

notebooks: $(READY) assets ## run all notebooks in place, without bars and warnings, and save their outputs (NOTEBOOKS="nbs/00_core.ipynb" for some)
	@for nb in $(NOTEBOOKS); do \
	  echo "$$nb"; \
	  CI=1 PYTHONWARNINGS=ignore $(BIN)/jupyter nbconvert --log-level ERROR --to notebook --execute --inplace --ExecutePreprocessor.timeout=600 "$$nb"; \
	  $(BIN)/nbdev-clean --fname "$$nb"; \
	done
	@$(MAKE) export

readme: $(READY) ## write README.md from nbs/index.ipynb
	@$(PY) docs/readme.py

docs: $(READY) ## build the site into _docs/
	@$(PY) -W ignore docs/build.py

preview: docs ## build the site and serve it at http://127.0.0.1:8000
	@$(PY) -m http.server --bind 127.0.0.1 -d _docs 8000

suite: $(READY) ## run the small built-in suite and write its leaderboard into runs/small/
	@$(BIN)/sft-nb suite small

bench: $(READY) assets ## measure against named peers (BENCH=--quick for a short look)
	@for script in benchmarks/[a-z]*.py; do echo "== $$script"; $(PY) "$$script" $(BENCH); done

dist: $(READY) ## build the sdist and, from it, the wheel into dist/
	@rm -rf dist
	@log=$$($(PY) -m build --no-isolation 2>&1) || { echo "$$log" >&2; exit 1; }
	@ls dist

# --- What the others need ---

setup: $(READY) ## make .venv and install everything (the others do it by themselves)

# The oldest Python that will do is the one in settings.ini.
$(READY): settings.ini setup.py pyproject.toml
	@least=$$(sed -n 's/^min_python *= *//p' settings.ini); \
	if [ ! -x $(PY) ]; then \
	  for python in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11 python3.10 python none; do \
	    "$$python" -c "import sys; sys.exit(sys.version_info[:2] < ($${least/./, }))" 2>/dev/null && break || true; \
	  done; \
	  if [ "$$python" = none ]; then \
	    echo "Expected Python $$least or newer on PATH, but found $$(python3 --version 2>/dev/null || echo none). Install one, or say where it is: make PYTHON=/path/to/python $(MAKECMDGOALS)" >&2; exit 1; \
	  fi; \
	  echo "Making .venv with $$("$$python" --version)."; \
	  "$$python" -m venv .venv || { rm -rf .venv; echo "Expected the module venv to work, but it did not. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }; \
	fi
	@echo "Installing into .venv. The first time that takes minutes: PyTorch is large."
	@$(PY) -m pip install --disable-pip-version-check --progress-bar off -e '.[dev]' | { grep --line-buffered -E '^ *Downloading .* [MG]B' || true; }
	@touch $@

# Data and weights that tests and notebooks use, fetched before several processes ask for them at once.
assets: $(READY)
	@$(PY) -c "from sft_nb.assets import fetch_asset; [fetch_asset(name) for name in ('elpv', 'tf_efficientnet_lite0', 'minilm-l6', 'imdb', 'imdb-train', 'smollm2-135m', 'flan-t5-small', 'halueval', 'squad', 'squad2-dev')]"

browser:
	@if command -v chromium chromium-browser google-chrome google-chrome-stable >/dev/null; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "Installing Chromium for the browser tests."; \
	  { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends chromium fonts-dejavu-core; } >/dev/null 2>&1 \
	    || echo "That failed: the browser tests will be skipped."; \
	else echo "No Chromium here: the browser tests will be skipped."; fi
