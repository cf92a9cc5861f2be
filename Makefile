# Papers, re-run. `make` shows what there is.

PAPER     ?=
SCALE     ?= default
SEEDS     ?=
SEED_OFFSET ?=
HOURS     ?=
ANYWAY    ?=
EXECUTOR  ?= local
DEVICE    ?= cpu
JOBS      ?= 2
VENV      ?= .venv
PYTHON    ?=
INSTALLER ?=

# What a user gives is text: make never expands it, and recipes read it as "$$NAME" from the
# environment, so that no part of it is ever run. tools/boot.sh refuses odd characters.
override PAPER     := $(value PAPER)
override SCALE     := $(value SCALE)
override SEEDS     := $(value SEEDS)
override SEED_OFFSET := $(value SEED_OFFSET)
override HOURS     := $(value HOURS)
override ANYWAY    := $(value ANYWAY)
override EXECUTOR  := $(value EXECUTOR)
override DEVICE    := $(value DEVICE)
override JOBS      := $(value JOBS)
override VENV      := $(value VENV)
override PYTHON    := $(value PYTHON)
override INSTALLER := $(value INSTALLER)
export PAPER SCALE SEEDS SEED_OFFSET HOURS ANYWAY EXECUTOR DEVICE JOBS VENV PYTHON INSTALLER
export PYTHONUTF8 = 1

override SETUP = @sh tools/boot.sh
override PY = "$$VENV/bin/python"
# Tests start a thousand processes that import the same modules: what is compiled is kept for them.
override KEEPING = PYTHONDONTWRITEBYTECODE=
override REPRODUCE = $(PY) -m tools.reproduce "$$PAPER" $${SEEDS:+--seeds "$$SEEDS"} \
	$${SEED_OFFSET:+--seed-offset "$$SEED_OFFSET"} $${HOURS:+--hours "$$HOURS"} \
	$${ANYWAY:+--anyway} --executor "$$EXECUTOR" --device "$$DEVICE"
override FOR_PAPER = --paper="$$PAPER" --scale="$$SCALE" --executor="$$EXECUTOR"

.PHONY: help setup reproduce results judge power smoke bench expert list tables test lint \
	unit smoke-all clean
.NOTPARALLEL:

help:
	@echo 'make reproduce PAPER=<paper>   run everything and judge the claims of a paper'
	@echo 'make smoke PAPER=<paper>       the same pipeline, tiny: it works, and proves nothing'
	@echo 'make results PAPER=<paper>     reproduce, then put the results into the paper'\''s folder'
	@echo 'make judge PAPER=<paper>       judge the committed rows anew, without training'
	@echo 'make power PAPER=<paper>       how many seeds would decide what is inconclusive'
	@echo 'make list                      the papers that are here, their scales and minutes'
	@echo 'make bench [PAPER=<paper>]     speed, against peers'
	@echo 'make expert PAPER=<paper>      make the demonstrations that a paper imitates anew'
	@echo 'make tables                    render results into the READMEs'
	@echo 'make test                      lint, unit tests, a smoke run of every paper'
	@echo 'make smoke-all                 a smoke run of every paper, JOBS=2 at a time'
	@echo 'make unit                      unit tests'
	@echo 'make lint                      ruff, mypy, import-linter'
	@echo 'make setup [PAPER=<paper>]     install only (without PAPER: what the tests need)'
	@echo 'make clean                     remove .venv and caches; runs/ stays'
	@echo
	@echo 'SCALE=default|smoke|gpu|paper|tuning|study  SEEDS=<n>  EXECUTOR=local|ray'
	@echo 'DEVICE=cpu|cuda  PAPER=all HOURS=<n, a budget for all>  INSTALLER=pip|uv'
	@echo 'SEED_OFFSET=<n, for other seeds>  ANYWAY=1 (although data or memory are missing)'
	@echo 'PYTHON=<a Python 3.11 or 3.12, else one is looked for>  VENV=<instead of .venv>'

setup:
	$(SETUP) $(if $(PAPER),$(FOR_PAPER),--all)

reproduce:
	$(SETUP) $(FOR_PAPER)
	@$(REPRODUCE) --scale "$$SCALE"

smoke:
	$(SETUP) --paper="$$PAPER" --scale=smoke --executor="$$EXECUTOR"
	@$(REPRODUCE) --scale smoke

results:
	$(SETUP) $(FOR_PAPER)
	@$(REPRODUCE) --scale "$$SCALE" --commit-results

judge:
	$(SETUP) $(FOR_PAPER)
	@$(PY) -m tools.judging "$$PAPER" --scale "$$SCALE"

power:
	$(SETUP) $(FOR_PAPER)
	@$(PY) -m tools.power "$$PAPER" --scale "$$SCALE"

bench:
	$(SETUP) $(if $(PAPER),--paper="$$PAPER" --extra peers,--all)
	@$(PY) -m tools.bench $${PAPER:+"$$PAPER"}

expert:
	$(SETUP) --paper="$$PAPER" --file expert.py --extra peers
	@$(PY) -m "papers.$$PAPER.expert"

list:
	$(SETUP)
	@$(PY) -m tools.tables --list

tables:
	$(SETUP)
	@$(PY) -m tools.tables --write

lint:
	$(SETUP) --extra dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	"$$VENV/bin/lint-imports"

unit:
	$(SETUP) --all
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(KEEPING) $(PY) -m pytest -n 2 --dist worksteal

test:
	$(SETUP) --all
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory unit
	@$(MAKE) --no-print-directory smoke-all

# All are tried, several at a time, each with its share of the cores; installing comes first.
smoke-all:
	$(SETUP) --all
	@$(KEEPING) $(PY) -m tools.smoke_all --jobs "$$JOBS"

clean:
	@sh tools/boot.sh --clean
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build *.egg-info
	find papers common tools tests -name __pycache__ -type d -prune -exec rm -rf {} +
