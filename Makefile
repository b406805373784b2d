# make demo   build, then show a passthru disk served to a real NBD client
# make test   build, then run every check: lint, types, floors, tests on release and debug builds
# make generated   write what is generated from the declarations of the RPC methods again
# make bench   measure beside the peers that are installed, and write docs/performance.md and its
#              charts: 20 minutes, with QUICK=1 three; ROWS=1,5 only these rows
# make costs   count what an I/O costs and compare with tests/costs/baseline.toml (docs/testing.md)
# make baseline   the same, and record the figures there
# make test-lowest   build and test with the lowest versions that pyproject.toml promises
# make test-long   run the state machine and the simulation for ten minutes each (docs/testing.md)
# make canaries   put faults back in a build of their own, and have the simulation find them
# make mutants   change the compiled core, registry and bdev one mistake at a time, and say which
#              the tests find (N=100 of them, SEED=1, FILES=...; docs/testing.md)
# make soak   ten minutes of all kinds of clients at once, and what an honest one sees (SECONDS=60)
# make rpc-coverage   ask everything of SPDK's client and write docs/rpc-coverage.md
#
# Both set up what they need: a virtual environment in .venv, the build, and (for the tests) the
# NBD clients of Debian where they are missing and apt is there.

PYTHON := $(shell for p in python3 python3.13 python3.12 python3.11; do \
  $$p -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find src meson.build pyproject.toml README.md -type f -not -name '*.pyc')
DEBUG := build/debug-site
ASAN := build/asan-site
FAULTS := build/faults
LOWEST := build/lowest
COMPILED = $(subst /,.,$(patsubst src/%.pyi,%,$(shell find src/vbdev/core -name '*.pyi')))
# What leans on the libraries: declarations and their codecs, what pytest loads, columns, tables.
LOWEST_TESTS := tests/config tests/rpc tests/testing tests/wire tests/core/test_batch.py tests/cli/test_commands.py
# So many tests run beside each other, most of which wait. What measures a time has its turn alone.
WORKERS := 2
BESIDE := -n $(WORKERS) --dist worksteal
PIP_BUILD := PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pip install --quiet --no-build-isolation --no-deps

export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo mutants test canaries test-long test-lowest test-release test-debug test-asan lint generated clients bench costs \
  baseline fuzz rpc-coverage soak aarch64 clean

demo: $(VENV)/release
	$(BIN)/vbdev demo

test: lint clients test-debug test-release

test-release: $(VENV)/release $(VENV)/tools
	$(BIN)/python -m pytest $(BESIDE) -m "not alone"
	$(BIN)/python -m pytest -m alone tests

test-long: $(VENV)/release $(VENV)/tools
	$(BIN)/python tests/machine/long_run.py $(LONG)
	PYTHONPATH=tests $(BIN)/python -m simulation $(SIMULATION)

test-debug: $(DEBUG)/built $(VENV)/tools
	PYTHONPATH=$(DEBUG) $(BIN)/python -m pytest $(BESIDE) -m core tests

test-asan: $(ASAN)/built $(VENV)/tools
	PYTHONPATH=$(ASAN) LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	  ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 PYTHONMALLOC=malloc \
	  $(BIN)/python -m pytest -m core tests \
	  --ignore tests/targets/test_nbd_crowds.py  # it measures memory, of which ASan takes its own

test-lowest: $(LOWEST)/built
	PATH="$(CURDIR)/$(LOWEST)/bin:$$PATH" $(LOWEST)/bin/python -m pytest $(LOWEST_TESTS)

canaries: $(FAULTS)/built $(VENV)/tools
	PYTHONPATH=$(FAULTS)/site $(BIN)/python -m pytest tests/simulation/test_canaries.py

soak: $(VENV)/release $(VENV)/tools
	PYTHONPATH=tests $(BIN)/python -m soak --seconds $(or $(SECONDS),600) --reactors $(or $(REACTORS),1)

lint: $(VENV)/release $(VENV)/tools
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/cython-lint src  # it calls pycodestyle
	$(BIN)/mypy
	@$(BIN)/python -m mypy.stubtest $(COMPILED) --concise --ignore-missing-stub --ignore-disjoint-bases \
	  --allowlist tests/floors/stubs_allowed.txt --ignore-unused-allowlist
	$(BIN)/lint-imports

generated: $(VENV)/release
	$(BIN)/python tests/generated/write.py

clients:
	@./tests/install-clients.sh

bench: $(VENV)/release
	$(BIN)/python -m bench $(if $(QUICK),--quick) $(if $(ROWS),--rows $(ROWS))

costs: $(VENV)/release clients
	PYTHONPATH=tests $(BIN)/python -m costs

baseline: $(VENV)/release clients
	PYTHONPATH=tests $(BIN)/python -m costs --write

aarch64: $(VENV)/release
	tests/aarch64.sh

rpc-coverage: $(VENV)/release $(VENV)/tools
	PYTHONPATH=tests $(BIN)/python -m spdk_client

mutants: $(VENV)/release $(VENV)/tools
	PYTHONPATH=tests $(BIN)/python -m mutation --number $(or $(N),100) --seed $(or $(SEED),1) $(FILES)

fuzz: $(VENV)/release
	$(BIN)/pip install --quiet --group fuzz
	for f in fuzz/*.py; do $(BIN)/python $$f -max_total_time=60 || exit 1; done

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "vbdev needs Python 3.11 or later, with venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip

$(VENV)/build-tools: $(BIN)/python pyproject.toml
	$(BIN)/pip install --quiet meson-python meson ninja cython msgspec numpy rich
	@touch $@

$(VENV)/tools: $(VENV)/build-tools
	$(BIN)/pip install --quiet --group lint --group test
	@touch $@

$(VENV)/release: $(VENV)/build-tools $(SOURCES)
	$(PIP_BUILD) -Cbuild-dir=build/release .
	@touch $@

$(DEBUG)/built: $(VENV)/build-tools $(SOURCES)
	rm -rf $(DEBUG)
	$(PIP_BUILD) --target $(DEBUG) -Cbuild-dir=build/debug -Csetup-args=-Dbuildtype=debug .
	@touch $@

$(LOWEST)/built: $(BIN)/python $(SOURCES) tests/lowest.py
	test -d $(LOWEST) || $(PYTHON) -m venv $(LOWEST)
	$(BIN)/python tests/lowest.py >$(LOWEST)/requirements.txt
	$(LOWEST)/bin/pip install --quiet -r $(LOWEST)/requirements.txt
	PATH="$(CURDIR)/$(LOWEST)/bin:$$PATH" $(LOWEST)/bin/pip install --quiet --no-build-isolation --no-deps \
	  -Cbuild-dir=build/lowest-build .
	@touch $@

$(FAULTS)/built: $(VENV)/build-tools $(SOURCES) tests/simulation/faults.py
	rm -rf $(FAULTS)/site
	$(BIN)/python tests/simulation/faults.py $(FAULTS)/source
	$(PIP_BUILD) --target $(FAULTS)/site -Cbuild-dir=$(CURDIR)/$(FAULTS)/build $(FAULTS)/source
	@touch $@

$(ASAN)/built: $(VENV)/build-tools $(SOURCES)
	rm -rf $(ASAN)
	$(PIP_BUILD) --target $(ASAN) -Cbuild-dir=build/asan -Csetup-args=-Dbuildtype=debug \
	  -Csetup-args=-Db_sanitize=address,undefined -Csetup-args=-Db_lundef=false .
	@touch $@

clean:
	rm -rf $(VENV) build
