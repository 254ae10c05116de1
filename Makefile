# Needs python3 (3.11 or newer) and make; everything else is fetched into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PORT ?= 8000
ROOT_FLAG := $(if $(filter 0,$(shell id -u)),--allow-root)

PEERS := .venv-peers
PEERS_READY := $(PEERS)/.ready

.PHONY: book pdf style test test-processors notebook serve figures peers test-peers audit-peers
.PHONY: gpu clean help
.DEFAULT_GOAL := help

# Some hundred processes import the same modules; each would compile them anew.
unexport PYTHONDONTWRITEBYTECODE

help:
	@echo "make book      build the book; open _build/html/index.html"
	@echo "make test      build the book and test everything, the pages in a browser too"
	@echo "make test-processors  numeric tests and pages as on other processors, half an hour;"
	@echo "               ONLY='no vector unit' runs one of its settings"
	@echo "make notebook  JupyterLab with the chapters as notebooks"
	@echo "make serve     the built book on http://127.0.0.1:$(PORT)"
	@echo "make pdf       the book as one PDF, _build/on-policy-distillation.pdf"
	@echo "make figures   draw again every file of figures/"
	@echo "make peers     the libraries that the losses are measured against, into $(PEERS)"
	@echo "make test-peers  the losses against those libraries, and in their trainers"
	@echo "make audit-peers  what the losses of public trainers optimise, TRL's to Axolotl's:"
	@echo "               audits them, records, prints, 5 minutes"
	@echo "make gpu       on a machine with a card: kernels, loss benchmark, study, 8 minutes at most"
	@echo "make clean     remove what was built (not .venv, not $(PEERS))"

define environment
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	echo "$(PYTHON) is too old: Python 3.11 or newer is needed."; \
	echo "Name one: make PYTHON=python3.12 ..."; exit 1; }
@test -x $(1)/bin/python || $(PYTHON) -m venv $(1) || { \
	echo "python3 cannot make virtual environments:"; \
	echo "on Debian and Ubuntu, apt install python3-venv"; exit 1; }
endef
# Compiled when first imported: of the 10,000 files most never are.
PIP := python -m pip install --quiet --disable-pip-version-check --no-compile

# pip's build isolation is off so that the pinned setuptools is the one used.
$(READY): requirements.txt pyproject.toml
	$(call environment,$(VENV))
	$(BIN)/$(PIP) -r requirements.txt
	$(BIN)/$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

# -W: a warning is a failure. -n: so is a reference to nothing.
# The chapters are executed again when anything they use has changed; see book/_extensions.
# passive: several chapters are executed at a time; threads that wait would keep them from it.
book: export OMP_WAIT_POLICY = passive
book: $(READY)
	@$(BIN)/jupyter-book build . -W -n --keep-going
	@echo "The book is built. Open $(CURDIR)/_build/html/index.html"

# tests/conftest.py says which tests stay together, and begins with those that take longest.
SIDE_BY_SIDE := -n auto --dist loadfile --no-loadscope-reorder

style: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

test: style book
	$(BIN)/python -m opd_toy.explorables.browser
	$(BIN)/python -m pytest $(SIDE_BY_SIDE)

# Rounding differs with the vector unit, the BLAS kernel and the number of threads: no test may
# depend on it. tests/processors.py has the settings.
test-processors: $(READY)
	$(BIN)/python -m opd_toy.explorables.browser
	$(BIN)/python -m tests.processors $(if $(ONLY),--only "$(ONLY)")

notebook: $(READY)
	JUPYTER_CONFIG_PATH=$(CURDIR)/book/_jupyter $(BIN)/jupyter lab \
		--LabApp.default_url=/lab/tree/book/index.md $(ROOT_FLAG)

serve: book
	@echo "http://127.0.0.1:$(PORT)  (Ctrl+C stops it)"
	@$(BIN)/python -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

pdf: book
	$(BIN)/python -m opd_toy.explorables.browser
	$(BIN)/python book/_extensions/one_pdf.py

figures: $(READY)
	$(BIN)/python -m opd_toy.explorables.browser
	$(BIN)/python -m opd_toy figures

# requirements.txt first; the rest names all it imports and brings nothing along, so that those
# pins, torch's above all, hold.
$(PEERS_READY): requirements.txt requirements-peers.txt pyproject.toml
	$(call environment,$(PEERS))
	$(PEERS)/bin/$(PIP) -r requirements.txt
	$(PEERS)/bin/$(PIP) --no-deps -r requirements-peers.txt
	$(PEERS)/bin/$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

peers: $(PEERS_READY)

# trl's packages hold no tests: those of its loss come from its repository, and are left out
# where that is out of reach.
TRL_TESTS := $(PEERS)/test_gkd_trainer.py
TRL := https://raw.githubusercontent.com/huggingface/trl/v1.16.0/tests/experimental
test-peers: peers
	@test -f $(TRL_TESTS) || curl -fsSL $(TRL)/$(notdir $(TRL_TESTS)) -o $(TRL_TESTS) || \
		echo "trl's own tests could not be fetched; they are left out"
	$(PEERS)/bin/python -m pytest tests/peers

audit-peers: peers
	$(PEERS)/bin/python -m opd_toy.audit.exhibits.libraries --record

# Uses the other libraries where `make peers` has fetched them; rehearse: make gpu REHEARSE=1
gpu: $(READY)
	$(BIN)/python -m opd_toy gpu $(if $(REHEARSE),--rehearse)

clean:
	rm -rf _build .pytest_cache .hypothesis
	find opd_toy tests book -name __pycache__ -type d -exec rm -rf {} +
