# podrt: `make help` lists what can be done.
# VENV and PYTHON may be named: make test VENV=/var/tmp/venv PYTHON=python3.13

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV ?= .venv
BIN := $(abspath $(VENV))/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PYTEST := $(BIN)/python -m pytest
STAMPS := $(VENV)/.podrt
SECONDS ?= 60
REPLAY ?=

export PATH := $(BIN):$(PATH)
export PIP_ROOT_USER_ACTION := ignore

SOURCES := pyproject.toml setup.py README.md $(shell find src -type f \( -name '*.py' \
	-o -name '*.pyi' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.h' -o -name '*.json' \
	-o -name '*.bpf' -o -path '*/_native/*.c' \) -not -path '*.egg-info/*')
NATIVE := $(wildcard src/podrt/_native/*.[ch])

.PHONY: help run test deep fuzz sanitize system vm bench check fmt build dist clean

help: ## list these commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

run: $(STAMPS)/installed ## play examples/ on real processes, show them, remove everything again
	@$(BIN)/python examples/run.py

test: $(STAMPS)/installed $(STAMPS)/test ## unit, contract and system tests, a sample of the crash tests
	@$(PYTEST) tests --ignore=tests/vm

deep: $(STAMPS)/installed $(STAMPS)/test $(STAMPS)/vm ## the crash, power-loss, reboot and fuzz tests at their full counts
	@$(PYTEST) tests --ignore=tests/vm/guest --deep --timeout=3600

fuzz: $(STAMPS)/installed $(STAMPS)/test ## corrupted files under sanitizers: SECONDS=60 in all, REPLAY=target:seed
	@PYTHONPATH=tests $(BIN)/python -m fuzz $(if $(REPLAY),--replay $(REPLAY),--seconds $(SECONDS))

sanitize: $(STAMPS)/installed $(STAMPS)/test ## the contract and system tests with a monitor under ASan and UBSan
	@monitor=$(abspath .work/sanitized/podrt-monitor)
	mkdir -p .work/sanitized
	gcc -std=gnu11 -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined \
		-fno-sanitize-recover=all $(filter-out %/pause.c,$(wildcard src/podrt/_native/*.c)) \
		tests/fuzz_native/sanitizer_options.c -o "$$monitor"
	PODRT_MONITOR_BINARY=$$monitor $(PYTEST) tests/contract tests/system
	found=$$(find /tmp -maxdepth 1 -name 'podrt-monitor.sanitizer.*' -newer "$$monitor")
	if [ -n "$$found" ]; then cat $$found >&2; exit 1; fi

system: $(STAMPS)/installed $(STAMPS)/test ## only the tests that need the real kernel
	@$(PYTEST) $(wildcard tests/contract tests/system)

vm: $(STAMPS)/installed $(STAMPS)/test $(STAMPS)/vm ## smoke tests in a guest with pure cgroup v2 (QEMU)
	@if command -v qemu-system-x86_64 >/dev/null; then tests/vm/prepare || true; fi
	$(PYTEST) tests/vm/guest --timeout=2500

bench: $(STAMPS)/installed $(STAMPS)/dev ## measure against the floor and the peers
	@.ci/packages ci >/dev/null
	$(BIN)/python -m benchmarks

check: $(STAMPS)/installed $(STAMPS)/test $(STAMPS)/dev ## format, lint, types, stubs, spelling, C warnings
	@failed=()
	try() { echo "== $$1"; "$${@:2}" || failed+=("$$1"); }
	warnings() {
		local path
		for path in src/podrt/_native/*.c; do
			cc -std=gnu11 -O2 -Wall -Wextra -Wno-unused-parameter -Wshadow -Wswitch-enum -Werror -c "$$path" -o /dev/null || return 1
		done
	}
	stubs() {
		local names
		names=$$(find src/podrt/_fast -name '*.pyx' -printf 'podrt._fast.%f\n' | sed 's/\.pyx$$//' | sort)
		[ -z "$$names" ] || (cd / && $(BIN)/stubtest --concise $$names)
	}
	try format ruff format --check .
	try lint ruff check .
	try types mypy
	try stubs stubs
	try cython cython-lint src/podrt/_fast
	try spelling codespell src tests examples benchmarks .ci .github README.md ARCHITECTURE.md \
		CHANGELOG.md Makefile setup.py pyproject.toml
	if [ -n "$(NATIVE)" ]; then
		if command -v clang-format >/dev/null; then
			try c-format clang-format --dry-run -Werror $(NATIVE)
		fi
		try c-warnings warnings
	fi
	if [ $${#failed[@]} -gt 0 ]; then
		echo "make check: failed: $${failed[*]}" >&2
		exit 1
	fi

fmt: $(STAMPS)/dev ## format Python and C
	@ruff format .
	ruff check --fix-only --quiet .
	if command -v clang-format >/dev/null && [ -n "$(NATIVE)" ]; then clang-format -i $(NATIVE); fi

build: $(STAMPS)/installed ## build, and install into the virtual environment

dist: $(STAMPS)/dev ## sdist and wheel, repaired; a pod is run from it in an empty environment
	@rm -rf dist wheelhouse
	python -m build --outdir dist .
	auditwheel repair --wheel-dir wheelhouse dist/*.whl
	folder=$$(mktemp -d)
	trap 'rm -rf "$$folder"' EXIT
	python -m venv "$$folder/venv"
	"$$folder/venv/bin/python" -m pip --quiet install wheelhouse/*.whl
	cp -r examples "$$folder/"
	cd "$$folder" && venv/bin/python examples/run.py shop

clean: ## remove what was built; the virtual environment stays
	@rm -rf build dist wheelhouse .work .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -rf src/podrt/_native/bin src/*.egg-info $(STAMPS)/installed benchmarks/bin
	find src tests examples -name __pycache__ -prune -exec rm -rf {} +
	find src -name '*.so' -delete

# The virtual environment and what is in it. A stamp is newer than what it was made from.

$(STAMPS)/venv:
	@python=$$(.ci/packages run)
	if ! [ -x $(BIN)/python ]; then
		echo "podrt: making $(VENV) with $$python" >&2
		"$$python" -m venv $(VENV)
	fi
	$(PIP) install 'setuptools>=77' 'Cython>=3.1'
	mkdir -p $(STAMPS)
	touch $@

$(STAMPS)/installed: $(STAMPS)/venv $(SOURCES)
	@.ci/packages run >/dev/null
	echo "podrt: building, and installing into $(VENV)" >&2
	if [ -d build ]; then find build -path '*/lib.*' -name '*.py' -delete; fi
	$(PIP) install --no-build-isolation .
	touch $@

$(STAMPS)/test $(STAMPS)/vm $(STAMPS)/dev: $(STAMPS)/%: $(STAMPS)/venv pyproject.toml
	@echo "podrt: installing what '$*' needs into $(VENV)" >&2
	$(BIN)/python -c 'import sys, tomllib; project = tomllib.load(sys.stdin.buffer)["project"]
	print(*project["optional-dependencies"][sys.argv[1]], sep="\n")' $* <pyproject.toml >$(STAMPS)/$*.txt
	$(PIP) install -r $(STAMPS)/$*.txt
	touch $@
