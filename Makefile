# Papers, re-run. `make` shows what there is.

PAPER    ?=
SCALE    ?= default
SEEDS    ?=
EXECUTOR ?= local
DEVICE   ?= cpu
PYTHON   ?= python3

PY := .venv/bin/python
# The environment's own Python looks after it, unless PYTHON= names another one.
BOOT := $(if $(and $(wildcard $(PY)),$(filter file,$(origin PYTHON))),$(PY),$(PYTHON))
SETUP = @command -v $(BOOT) >/dev/null || { \
	echo "error: there is no $(BOOT); name a Python 3.11 or 3.12 with PYTHON=" >&2; exit 2; }; \
	$(BOOT) -m tools.setup_env
RUN = $(PY) -m tools.reproduce $(PAPER) $(if $(SEEDS),--seeds $(SEEDS)) \
	--executor $(EXECUTOR) --device $(DEVICE)

EXPERTS = $(patsubst papers/%/expert.py,%,$(wildcard papers/*/expert.py))

.PHONY: help setup reproduce smoke bench expert list tables test lint smoke-all clean
.NOTPARALLEL:

help:
	@echo 'make reproduce PAPER=<paper>   run everything and judge the claims of a paper'
	@echo 'make smoke PAPER=<paper>       the same pipeline, tiny: it works, and proves nothing'
	@echo 'make list                      the papers that are here, their scales and minutes'
	@echo 'make bench [PAPER=<paper>]     speed, against peers'
	@echo 'make expert PAPER=<paper>      make the demonstrations that a paper imitates anew'
	@echo 'make tables                    render results into the READMEs'
	@echo 'make test                      lint, unit tests, a smoke run of every paper'
	@echo 'make lint                      ruff, mypy, import-linter'
	@echo 'make setup [PAPER=<paper>]     install only (without PAPER: what the tests need)'
	@echo 'make clean                     remove .venv and caches; runs/ stays'
	@echo
	@echo 'SCALE=default|smoke|gpu|paper  SEEDS=<n>  EXECUTOR=local|ray  DEVICE=cpu|cuda'
	@echo 'PYTHON=<a Python 3.11 or 3.12, if python3 is none>'

setup:
	$(SETUP) $(if $(PAPER),--paper "$(PAPER)",--all)

reproduce:
	$(SETUP) --paper "$(PAPER)" --scale "$(SCALE)" --executor "$(EXECUTOR)"
	@$(RUN) --scale $(SCALE)

smoke:
	$(SETUP) --paper "$(PAPER)" --scale smoke --executor "$(EXECUTOR)"
	@$(RUN) --scale smoke

bench:
	$(SETUP) $(if $(PAPER),--paper "$(PAPER)" --extra peers,--all)
	@$(PY) -m tools.bench $(PAPER)

expert:
	@test -z "$(PAPER)" -o -f "papers/$(PAPER)/expert.py" || { \
		echo "error: $(PAPER) needs no expert; PAPER= one of:" $(EXPERTS) >&2; exit 2; }
	$(SETUP) --paper "$(PAPER)" --extra peers
	@$(PY) -m papers.$(PAPER).expert

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
	.venv/bin/lint-imports

test:
	$(SETUP) --all
	@$(MAKE) --no-print-directory lint
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2
	@$(MAKE) --no-print-directory smoke-all

# A smoke run of every folder of papers/; each is installed and run on its own, and all are tried.
smoke-all:
	@passed=0; failed=0; \
	for manifest in papers/*/paper.toml; do \
		paper=$$(basename $$(dirname $$manifest)); \
		if $(MAKE) --no-print-directory smoke PAPER=$$paper; \
		then passed=$$((passed + 1)); else failed=$$((failed + 1)); fi; \
	done; \
	echo "smoke: $$passed passed, $$failed failed"; test $$failed -eq 0

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build *.egg-info
	find papers common tools tests -name __pycache__ -type d -prune -exec rm -rf {} +
