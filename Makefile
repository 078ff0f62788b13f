# make report, make test, make lab: each makes the virtual environment .venv and installs what it needs first.
PYTHON ?= python3
# Another package index for torch, e.g. one with a smaller CPU build.
TORCH_INDEX ?=
# More options of jupyter lab, e.g. --no-browser, or --allow-root in a container.
LAB_OPTIONS ?=
VENV := .venv
RUN := $(VENV)/bin/python -m
PIP := $(RUN) pip install --quiet --disable-pip-version-check --constraint constraints.txt
NBVAL := --nbval-lax --nbval-current-env --nbval-cell-timeout=120 --nbval-sanitize-with=notebooks/sanitize.cfg

.PHONY: install report test lint test-unit test-notebooks test-browser test-floor lab clean help
.DEFAULT_GOAL := help
.NOTPARALLEL:  # steps install into one environment

install: $(VENV)/.batch ## the virtual environment .venv, with what the commands and the report need

report: $(VENV)/.batch ## run every notebook on its long settings; the gallery is reports/index.html
	$(RUN) spectralmc report --out reports

test: lint test-unit test-notebooks ## lint, types, tests, notebooks against their stored outputs

lint: $(VENV)/.test
	$(RUN) ruff check .
	$(RUN) mypy

test-unit: $(VENV)/.test
	OMP_NUM_THREADS=1 $(RUN) pytest -p no:nbval -n 2 --dist loadfile

test-notebooks: $(VENV)/.test
	$(RUN) spectralmc notebooks --check
	OMP_NUM_THREADS=1 $(RUN) pytest $(NBVAL) -p no:cacheprovider -n 2 --dist loadfile notebooks

test-browser: $(VENV)/.browser ## the explorer in JupyterLab and the pages, in the Chromium of this machine
	OMP_NUM_THREADS=1 $(RUN) pytest -p no:nbval tests/test_browser.py tests/test_explorer_browser.py

test-floor: ## the same tests on the oldest supported torch and a NumPy of its time, in .venv-floor (5 GB)
	$(MAKE) test-unit test-notebooks VENV=.venv-floor LANE=floor  # types are checked against the pinned torch

test-newest: ## the same tests on the newest supported torch and NumPy, in .venv-newest (6 GB)
	$(MAKE) test-unit test-notebooks VENV=.venv-newest LANE=newest

lab: $(VENV)/.lab ## JupyterLab on this machine's loopback, with a token
	cd notebooks && ../$(RUN) jupyter lab --ip=127.0.0.1 --ServerApp.root_dir=. --ServerApp.terminals_enabled=False \
	  --MappingKernelManager.cull_idle_timeout=3600 \
	  --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate --LabApp.news_url=None $(LAB_OPTIONS)

clean: ## remove the virtual environments and the reports
	rm -rf .venv .venv-floor .venv-newest reports

help:
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# A lane replaces the pins of torch, of what comes with it and of NumPy, and keeps the others.
floor_PINS := torch==2.4.1 numpy==2.3.5
newest_PINS := torch>=2.15 numpy>=2.4.6
ifdef LANE
PIP := $(RUN) pip install --quiet --disable-pip-version-check --constraint $(VENV)/constraints.txt
endif

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("SpectralMC needs Python 3.11 or newer; got " + sys.version.split()[0] + ": make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	touch $@

# torch first and by its exact version, so that no later step draws in another build
$(VENV)/.torch: $(VENV)/.python constraints.txt
ifdef LANE
	grep -v -E '^(torch|numpy|triton|nvidia-cuda-nvrtc)==' constraints.txt > $(VENV)/constraints.txt
	printf '%s\n' $(foreach pin,$($(LANE)_PINS),'$(pin)') >> $(VENV)/constraints.txt
endif
	$(PIP) $(if $(TORCH_INDEX),--no-deps --index-url "$(TORCH_INDEX)") torch  # what it needs comes with the next step, from the usual index
	touch $@

$(VENV)/.batch: $(VENV)/.torch pyproject.toml
	$(PIP) --editable ".[batch]"
	touch $@

$(VENV)/.test: $(VENV)/.batch
	$(PIP) --editable ".[batch,test]"
	touch $@

$(VENV)/.browser: $(VENV)/.test
	$(PIP) --editable ".[batch,lab,test,browser]"
	touch $@

$(VENV)/.lab: $(VENV)/.batch
	$(PIP) --editable ".[batch,lab]"
	touch $@
