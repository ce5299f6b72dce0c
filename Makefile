# make help lists the targets. Everything runs from the project's own virtual environment, made on first use.
PYTHON ?= python3.11
VENV ?= .venv
PY := $(VENV)/bin/python
RUN ?= outputs/latest
DATA ?=
MODEL ?= exported
ARGS ?=

# Exactly what the lock says, every file by its hash, and no build that fetches more.
LOCKED := -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --no-build-isolation
# Of a source package setup code would run: only the one that has no wheel is one. (The tests' packages lack some for some machines.)
WHEELS := --only-binary=:all: --no-binary=antlr4-python3-runtime
TOOLS := .venv-tools
OLDEST := .venv-oldest
# What computes differently from processor to processor.
KERNEL_TESTS := $(patsubst %,tests/modeling/test_%.py,cpu attention dropout encoder) tests/retrieval/test_search.py
COMPILE := $(TOOLS)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock"

.PHONY: help setup setup-dev train test test-fast test-kernels test-oldest test-browser eval mine sweep export demo bench gpu consumers chaos mutants lint format ddp doctor docs lock audit-deps clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'
	@echo '  ARGS="loss.temperature=0.05 ..." passes overrides on; docs/configuration.md has them all'

train: $(VENV)/.installed  ## set up, fine-tune mE5-small (4-bit weights, 91 MB to fetch) on the shipped sample, report
	$(PY) train.py model=e5_small_q4 experiment=quickstart $(ARGS)

test: $(VENV)/.installed-dev  ## set up, run the tests
	$(PY) -m pytest -n 2 $(ARGS)

test-fast: $(VENV)/.installed-dev  ## the tests but the slow ones
	$(PY) -m pytest -n 2 -m "not slow" $(ARGS)

test-kernels: $(VENV)/.installed-dev  ## what computes, on this processor as if it were an older one: with AVX2 alone, and without
	OMP_NUM_THREADS=1 ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 $(PY) -m pytest $(KERNEL_TESTS) $(ARGS)
	OMP_NUM_THREADS=1 ONEDNN_MAX_CPU_ISA=SSE41 ATEN_CPU_CAPABILITY=default $(PY) -m pytest $(KERNEL_TESTS) $(ARGS)

test-oldest:  ## the tests with the oldest supported versions, in an environment of their own
	$(MAKE) VENV=$(OLDEST) setup-dev
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-oldest.txt
	$(OLDEST)/bin/python -m pytest -n 2 $(ARGS)

test-browser: $(VENV)/.installed-dev  ## the pages in a real browser (apt-get install chromium fonts-noto-cjk; pip install playwright)
	OMP_NUM_THREADS=1 $(PY) -m pytest tests/browser/*_page.py $(ARGS)

eval: $(VENV)/.installed  ## measure the latest run's model; RUN=outputs/NAME chooses a run, DATA=DIR a BEIR folder or a file of rows
	$(PY) eval.py model.path=$(RUN)/model $(if $(DATA),$(if $(filter %.jsonl %.json %.csv %.tsv %.parquet,$(DATA)),data.dev_file=$(DATA),data.eval_dir=$(DATA))) $(ARGS)

mine: $(VENV)/.installed  ## hard negatives for DATA=rows.jsonl (the sample without it), found by the latest run's model
	$(PY) mine.py model.path=$(RUN)/model $(if $(DATA),data.train_file=$(DATA)) $(ARGS)

sweep: $(VENV)/.installed  ## six runs over temperature and seed, and their table
	$(PY) train.py experiment=sweep $(ARGS)

export: $(VENV)/.installed  ## write the latest run's model to exported/ and check it; RUN= chooses a run
	$(PY) export.py model.path=$(RUN)/model output_dir=exported $(ARGS)

demo: $(VENV)/.installed-dev  ## a page to try queries on: the latest run's model, its base, BM25 and hybrid side by side; RUN=, DATA=DIR
	$(PY) -m e5ft serve $(if $(wildcard $(RUN)/model),model.path=$(RUN)/model,model=e5_small_q4) $(if $(DATA),data.eval_dir=$(DATA)) $(ARGS)

ddp: $(VENV)/.installed  ## the quickstart in 2 processes that share each step's negatives
	OMP_NUM_THREADS=1 $(VENV)/bin/torchrun --standalone --nproc_per_node 2 train.py name=ddp-$$(date +%s) training.per_device_train_batch_size=32 training.use_cpu=true $(ARGS)

bench: $(VENV)/.installed-dev  ## time and memory beside sentence-transformers (half an hour; ARGS=--quick: three minutes)
	$(PY) -m benchmarks.bench $(ARGS)

gpu: $(VENV)/.installed-dev  ## what only a GPU can show: its kernels, memory, speed (25 minutes; ARGS=--quick: three)
	$(PY) -m benchmarks.gpu $(ARGS)

consumers: $(VENV)/.installed-dev  ## load MODEL (exported/) in each library that people use, an environment each, and compare vectors
	$(PY) -m benchmarks.consumers $(MODEL) $(ARGS)

doctor: $(VENV)/.installed  ## check machine, settings, data and model in seconds, with remedies
	@$(PY) train.py doctor=true $(ARGS)

chaos: $(VENV)/.installed-dev  ## inject faults, hostile input and canary secrets, and print what came of them (ARGS=--quick: minutes)
	OMP_NUM_THREADS=1 $(PY) -m tests.chaos $(ARGS)

mutants: $(VENV)/.installed-dev  ## change the core in 200 places, one at a time, and see whether its tests notice (ARGS="--only FILE")
	OMP_NUM_THREADS=1 $(PY) -m tests.mutants $(ARGS)

lint: $(VENV)/.installed-dev  ## check the style
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .

format: $(VENV)/.installed-dev  ## put the style right
	$(VENV)/bin/ruff check --fix . && $(VENV)/bin/ruff format .

setup: $(VENV)/.installed  ## the virtual environment with requirements.lock; then: . .venv/bin/activate
setup-dev: $(VENV)/.installed-dev  ## and what the tests need

docs: $(VENV)/.installed  ## write the tables of docs/configuration.md again from conf/ and the settings
	$(PY) docs/make_configuration.py

lock: $(TOOLS)/.installed  ## resolve requirements*.txt into requirements*.lock; versions stay where they can (ARGS=--upgrade: the newest)
	$(COMPILE) --no-emit-package torch requirements.txt -o requirements.lock $(ARGS)
	$(COMPILE) requirements-dev.txt -c requirements.lock $$(sed -nE 's/^([a-z0-9-]+)==.*/--no-emit-package \1/p' requirements.lock) \
		--no-emit-package torch -o requirements-dev.lock $(ARGS)
	$(COMPILE) requirements-tools.txt -o requirements-tools.lock $(ARGS)
	grep '^torch==' requirements.txt > requirements-torch.lock

audit-deps: $(TOOLS)/.installed  ## known vulnerabilities of everything locked, asked of osv.dev (needs the network)
	@$(TOOLS)/bin/python .ci/audit.py requirements.lock requirements-torch.lock requirements-dev.lock requirements-tools.lock

clean:  ## remove caches and the virtual environments; outputs/ and multirun/ stay
	rm -rf cache .venv .venv-tools .venv-oldest .venv-consumers .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python $(TOOLS)/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is not there; name a Python 3.11 or newer: make PYTHON=python3 ..."; exit 2; }
	$(PYTHON) -m venv $(@D)/..

# setuptools comes first, from the same lock: it builds what has no wheel. torch comes last, without a hash: its CPU and CUDA
# builds are different files of one version, and only the CUDA one needs more (it pins what).
$(VENV)/.installed: requirements.lock requirements-torch.lock | $(VENV)/bin/python
	@echo "installing requirements.lock into $(VENV) (a few minutes the first time)"
	@sed -n '/^setuptools==/,/# via/p' requirements.lock > $(VENV)/build.lock
	@$(PY) $(LOCKED) $(WHEELS) -r $(VENV)/build.lock
	@$(PY) $(LOCKED) $(WHEELS) -r requirements.lock
	@$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-torch.lock
	@$(PY) -m pip check --disable-pip-version-check > /dev/null || $(PY) -m pip check --disable-pip-version-check
	@touch $@

$(VENV)/.installed-dev: requirements-dev.lock $(VENV)/.installed
	@echo "installing requirements-dev.lock into $(VENV)"
	@$(PY) $(LOCKED) -r requirements-dev.lock
	@touch $@

$(TOOLS)/.installed: requirements-tools.lock | $(TOOLS)/bin/python
	@$(TOOLS)/bin/python $(LOCKED) $(WHEELS) -r requirements-tools.lock
	@touch $@
