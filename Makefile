# Every target works alone on a fresh machine: it makes .venv, installs what it needs there, and does its work.
# GNU make 3.81 (macOS) is enough.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CMAKE_BUILD_PARALLEL_LEVEL ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
export CMAKE_BUILD_PARALLEL_LEVEL

# Prompt and model travel through the environment, unexpanded, so that quotes and dollar signs in them survive. Only the
# command line counts: a shell may have a PROMPT of its own in the environment.
ADED_PROMPT := $(if $(findstring command,$(origin PROMPT)),$(value PROMPT))
ADED_MODEL := $(if $(findstring command,$(origin MODEL)),$(value MODEL))
export ADED_PROMPT
export ADED_MODEL
unexport PROMPT
unexport MODEL

.PHONY: help chat test check docs model clean
.NOTPARALLEL:

help: ## this list
	@echo 'make chat                       talk to SmolLM2, or to the built-in model where that is not to be had'
	@echo 'make chat PROMPT="..."          one answer'
	@echo 'make chat MODEL=path/to.gguf    talk to another model; smollm2 and builtin are names'
	@echo 'make test                       lint, types, imports, tests'
	@echo 'make check                      lint, types and imports only'
	@echo 'make docs                       the documentation as a site, in site/'
	@echo 'make model                      train the built-in models again (hours; CORPUS=path/to/tldr-en.jsonl.gz)'
	@echo 'make clean                      remove .venv and everything built'
	@echo
	@echo 'PYTHON=python3.12 chooses the interpreter that .venv is made from.'

# exec: a shell in between would die of the Ctrl-C that only stops an answer, and make would leave with it.
chat: $(VENV)/installed-run
	@set -- $${ADED_MODEL:+"$$ADED_MODEL"}; \
	if [ -n "$$ADED_PROMPT" ]; then exec $(BIN)/aded-chat -p "$$ADED_PROMPT" "$$@"; fi; \
	exec $(BIN)/aded-chat "$$@"

# A process for each processor, and a file of tests in one process, which shares what it loads. More than four would want more
# memory than time. In the order of their names: by default the files with the fewest tests come last, and those are the longest.
TOGETHER := --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# Tests start some two hundred programs, each of which would compile the same sources again where none are kept.
test: check
	@unset PYTHONDONTWRITEBYTECODE; $(BIN)/python -m pytest $(TOGETHER)

check: $(VENV)/installed-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy --strict
	@$(BIN)/lint-imports --no-logo --no-cache

docs: $(VENV)/installed-dev
	@$(BIN)/mkdocs build --strict --quiet
	@echo 'site/index.html'

CORPUS ?= ../shared/corpus/tldr-en.jsonl.gz

model: $(VENV)/installed-train
	@$(BIN)/python -m aded_models.train --corpus $(CORPUS) --out build/models
	cp build/models/tldr-chat-q8_0.gguf build/models/tldr-draft-q8_0.gguf models/aded_models/data/

clean:
	rm -rf $(VENV) site build/lib build/bdist.* dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find . -name '*.egg-info' -type d -prune -exec rm -rf {} +

# The stamps are newer than pyproject.toml exactly when .venv holds what it asks for.
$(VENV)/installed-run: pyproject.toml $(BIN)/python
	@$(call install,.)

$(VENV)/installed-dev: pyproject.toml $(BIN)/python
	@$(call install,.[dev])
	@touch $(VENV)/installed-run

$(VENV)/installed-train: pyproject.toml $(BIN)/python
	@$(call install,.[train])
	@touch $(VENV)/installed-run

# Install $(1), editable, then leave the stamp.
define install
$(PYTHON) .ci/install.py $(VENV) '$(1)' --with-model && touch $@
endef

$(BIN)/python:
	@$(PYTHON) -c '' 2>/dev/null || { \
	  echo '$(PYTHON) is not here: install Python 3.10 or newer, or name one: make PYTHON=/path/to/python3 ...' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo '$(PYTHON) is older than 3.10: name a newer one: make PYTHON=python3.12 ...' >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo '$(PYTHON) has no venv module: sudo apt install python3-venv (Debian, Ubuntu).' >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
