# `make run` and `make test` each work as the first command in a fresh checkout.
# They need Python 3.11 or newer, pip, git and make; `make help` lists everything.

VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PIP    := $(BIN)/python -m pip --disable-pip-version-check --no-input

# The first of these that is new enough; or choose: make PYTHON=/path/to/python3.11
PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

# What `make run` asks, and how. Exported, so that the shell need not quote it.
export PROMPT ?= What is the capital of France?
export SYSTEM ?= You are a helpful assistant.
# More words for gem, pytest or peers.py: make run ARGS="--max-tokens 20"
ARGS    ?=
# Processes that share the tests; each has one thread for torch, or they would take turns.
WORKERS ?= 2
test test-all test-targets: export OMP_NUM_THREADS = 1

# What GEM is compared with has an environment of its own.
PEERS       := .venv-peers
PEERS_STAMP := $(PEERS)/.installed

# Arm's compiler for Ethos-U has one, too.
ETHOS       := .venv-ethos
ETHOS_STAMP := $(ETHOS)/.installed

# What compiles for other processors and runs the result here, by the names of Debian and Ubuntu.
TARGET_PACKAGES := qemu-user clang-19 lld-19 llvm-19 gcc-aarch64-linux-gnu g++-aarch64-linux-gnu \
	libc6-arm64-cross libc6-dev-arm64-cross libstdc++-12-dev-arm64-cross libstdc++6-arm64-cross

SOURCES := gemcore plugins hwtargets tests benchmarks tools typing_tests examples

# How GEM's own experts and their router were made, of benchmark data in DATA.
EXPERTS := build/experts/smollm2-135m
DOMAINS := commonsense conversational domain_adaptive finance healthcare law multilingual stem
STEPS   := 48
multilingual: STEPS := 72

.DEFAULT_GOAL := help
.PHONY: help setup run test test-all setup-targets test-targets check coverage docs experts $(DOMAINS) bench \
	bench-peers clean compiler

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' Makefile

setup: compiler $(STAMP) ## install GEM and what it needs into .venv

run: setup ## answer PROMPT with the default model, which the first run fetches and compiles
	@$(BIN)/gem run --router scar --system "$$SYSTEM" $(ARGS) "$$PROMPT"

test: setup ## run the tests, without the slow ones
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadscope -m "not slow" $(ARGS)

test-all: setup ## run all tests
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadscope $(ARGS)

setup-targets: $(STAMP) $(ETHOS_STAMP) ## install what compiles and runs models for other processors
	@$(install_target_packages)
	@$(PIP) install -qq --constraint constraints.txt ziglang
	@$(BIN)/python -c 'from gem_arm.libraries import runtime_folder; print(runtime_folder())'

test-targets: setup ## run the tests of all targets, whole models on emulators included
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadscope tests/hwtargets $(ARGS)

check: $(STAMP) docs ## check style, format and types, and build the documentation strictly
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check $(SOURCES)
	@$(BIN)/mypy
	@$(BIN)/mypy typing_tests tools
	@$(BIN)/pyright --pythonpath $(BIN)/python --warnings

coverage: export OMP_NUM_THREADS = 1
coverage: setup ## say which lines of the core no test runs, which takes half an hour
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest -m "not slow" $(ARGS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

docs: export NO_MKDOCS_2_WARNING = 1
docs: $(STAMP) ## build the documentation into build/site
	@# Not with --quiet, which would hide warnings from --strict, too.
	@$(BIN)/mkdocs build --strict

experts: $(DOMAINS) ## make GEM's own experts anew of the benchmark data in DATA, which takes an hour
	@$(BIN)/gem experts fit-router --experts $(EXPERTS) --data "$(DATA)"

$(DOMAINS): setup
	@test -e $(EXPERTS)/$@ || $(BIN)/gem experts train --domain $@ --data "$(DATA)" --steps $(STEPS) \
		--heldout-bytes 20000 -o $(EXPERTS)/$@

bench: setup ## time prefill and decode of the default model
	@$(BIN)/gem bench $(ARGS)

bench-peers: setup $(PEERS_STAMP) ## compare with llama.cpp, OpenVINO and torch, which takes an hour
	@$(PEERS)/bin/python benchmarks/peers.py --gem-python $(BIN)/python $(ARGS)

clean: ## remove .venv and everything else that was made here
	rm -rf $(VENV) $(PEERS) $(ETHOS) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find $(SOURCES) -name __pycache__ -prune -exec rm -rf {} +

# Made once, and again when what is to be installed changes.
$(STAMP): setup.cfg constraints.txt
	@$(check_python)
	@$(make_venv)
	@echo "installing GEM and what it needs into $(VENV); the first time takes some minutes"
	@$(PIP) install -qq --constraint constraints.txt setuptools
	@$(PIP) install -qq --constraint constraints.txt --no-build-isolation \
		--editable '.[test,check,docs]'
	@touch $@

# The same for the peers. optimum-intel asks for torchvision, which only models of images need, and
# which does not load beside a torch of another build.
$(PEERS_STAMP): VENV := $(PEERS)
$(PEERS_STAMP): BIN := $(PEERS)/bin
$(PEERS_STAMP): PIP := $(PEERS)/bin/python -m pip --disable-pip-version-check --no-input
$(PEERS_STAMP): benchmarks/peers-requirements.txt | compiler
	@$(check_python)
	@$(make_venv)
	@echo "installing the peers into $(VENV); llama.cpp is compiled, which takes some minutes"
	@CMAKE_ARGS="-DGGML_NATIVE=ON" $(PIP) install -qq --requirement $<
	@$(PIP) uninstall -qq --yes torchvision
	@touch $@

# Arm's tools, which want another NumPy.
$(ETHOS_STAMP): VENV := $(ETHOS)
$(ETHOS_STAMP): BIN := $(ETHOS)/bin
$(ETHOS_STAMP): PIP := $(ETHOS)/bin/python -m pip --disable-pip-version-check --no-input
$(ETHOS_STAMP): hwtargets/gem_ethos/requirements.txt
	@$(check_python)
	@$(make_venv)
	@$(PIP) install -qq --requirement $<
	@touch $@

# TVM links compiled models with the first of these that it finds.
compiler:
	@$(find_compiler)

define check_python
if [ -z "$(PYTHON)" ]; then \
	echo "GEM needs Python 3.11 or newer, and none was found: install Python 3.11," \
		"or name one that is elsewhere: make PYTHON=/path/to/python3.11" >&2; exit 1; \
fi; \
if ! command -v "$(PYTHON)" >/dev/null; then \
	echo "there is no PYTHON=$(PYTHON): name a Python 3.11 or newer" >&2; exit 1; \
fi; \
if ! "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
	echo "GEM needs Python 3.11 or newer, but PYTHON=$(PYTHON) is" \
		"$$("$(PYTHON)" --version 2>&1): name another one" >&2; exit 1; \
fi
endef

# Debian keeps ensurepip in a package of its own; Python's own pip can stand in for it.
define make_venv
if "$(PYTHON)" -c 'import ensurepip' 2>/dev/null; then \
	"$(PYTHON)" -m venv $(VENV); \
elif "$(PYTHON)" -m venv --without-pip $(VENV) && \
	"$(PYTHON)" -m pip --disable-pip-version-check --python $(BIN)/python install -qq pip; then :; \
else \
	echo "$(PYTHON) cannot make a virtual environment: install the Debian package" \
		"python3-venv (or the ensurepip module of your Python), and run make again" >&2; exit 1; \
fi
endef

define install_target_packages
missing=; \
for package in $(TARGET_PACKAGES); do \
	dpkg-query -W -f '$${Status}' "$$package" 2>/dev/null | grep -q 'ok installed' || \
		missing="$$missing $$package"; \
done; \
if [ -z "$$missing" ]; then exit 0; fi; \
if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	echo "installing the Debian packages$$missing"; \
	export DEBIAN_FRONTEND=noninteractive; \
	apt-get update -qq && apt-get install -qq -y --no-install-recommends $$missing >/dev/null; \
else \
	echo "the targets need Debian packages that only root can install:" \
		"sudo apt-get install --no-install-recommends$$missing" >&2; exit 1; \
fi
endef

define find_compiler
if [ -n "$${CXX:-$$CC}" ]; then exit 0; fi; \
for name in g++ gcc clang++ clang c++ cc; do \
	if command -v $$name >/dev/null; then exit 0; fi; \
done; \
if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	echo "installing the Debian package g++, which links compiled models"; \
	export DEBIAN_FRONTEND=noninteractive; \
	if apt-get update -qq && apt-get install -qq -y --no-install-recommends g++ >/dev/null; then \
		exit 0; \
	fi; \
fi; \
echo "GEM needs a C++ compiler to link compiled models: install one and run make again" \
	"(Debian and Ubuntu: apt-get install g++)" >&2; exit 1
endef
