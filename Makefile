# Needs Python 3.11+, git and make; everything else goes into .venv.

BIN := .venv/bin
# Many tests wait for time limits rather than for a processor.
PROCESSORS := $(shell nproc 2>/dev/null || echo 2)
WORKERS := $(shell echo $$(( 2 * $(PROCESSORS) + 2 )))
CHECKED := $(wildcard conftest.py portico tests examples benchmarks compat)
# Each worker would compile all tests anew where this is set.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast test-stress test-skipped test-long test-floors test-matrix coverage check docs bench bench-compare compat clean

help: ## this list
	@sed -n 's/^\([a-z.-]*\):.*## \(.*\)/make \1	\2/p' Makefile

# A name may be a stub that does not run, so each is tried.
.venv: .venv/made
.venv/made: pyproject.toml constraints.txt
	@for python in python3 python3.13 python3.12 python3.11; do \
	  $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; \
	  python=; \
	done; \
	if [ -z "$$python" ]; then \
	  echo 'Portico needs Python 3.11 or later: none of python3, python3.13, python3.12, python3.11 is one.' >&2; exit 1; \
	fi; \
	if ! $$python -c 'import venv, ensurepip' 2>/dev/null; then \
	  echo "$$python has no venv module: install it (on Debian and Ubuntu the package python3-venv)." >&2; exit 1; \
	fi; \
	echo "Making .venv with $$($$python --version): this takes a minute or two"; \
	$$python -m venv --clear .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[claude,dev,docs]'
	@touch $@

demo: .venv ## serve at once, without a key, on a scripted model
	$(BIN)/portico demo

# `make test TESTS=tests/e2e` runs the tests in there alone.
TESTS :=

# $(call tested,MARKERS,OPTIONS,PYTEST,TESTS): what fails while others load the machine is run once more, by itself, and
# both are told. A test that fails by itself too has failed; one that does not depends on time.
tested = pytest='$(or $(3),$(BIN)/pytest)'; $$pytest -n $(WORKERS) --dist worksteal -m $(1) $(2) $(or $(4),$(TESTS)); status=$$?; \
	if [ $$status -eq 1 ]; then \
	  echo; echo 'Once more, by themselves, those that have failed:'; \
	  $$pytest --last-failed --last-failed-no-failures none -m $(1) $(or $(4),$(TESTS)); status=$$?; \
	fi; \
	exit $$status

test: .venv ## the tests, but for the long ones
	@$(call tested,'not long')

# Tests that start no program, and that notice most mistakes; those that try thousands of examples are left out.
FAST := $(addprefix tests/,core config test_floors.py test_distribution.py \
  $(addprefix plugins/,echo token_auth test_manager.py) \
  $(addprefix transports/test_,models.py parse.py wire.py)) \
  $(addprefix --ignore=tests/,core/test_life.py core/test_owners_at_random.py core/test_tool_rule.py) \
  $(addprefix --deselect=tests/config/test_load.py::test_,arbitrary_text_loads_or_is_a_settings_error \
  no_secret_is_shown_whatever_stands_around_it)
quickly := $(BIN)/pytest -m 'not long and not real_cli and not fake_agent'

test-fast: .venv ## a part of the tests that takes less than a minute, without the real CLI
	@$(quickly) -n 4 --dist worksteal $(FAST)

coverage: .venv ## a table of the lines that those tests run, and of those that none of them does
	@$(quickly) -n 4 --dist worksteal --cov --cov-report=term-missing:skip-covered $(FAST)

# As many as make each test take about five times as long on two cores.
LOOPS := 8

test-stress: .venv ## the tests beside eight busy loops, to find those that measure the machine
	@loops=; \
	trap 'kill $$loops' EXIT; trap 'exit 130' INT TERM; \
	for n in $$(seq $(LOOPS)); do $(BIN)/python -c 'while True: pass' & loops="$$loops $$!"; done; \
	$(BIN)/pytest -n $(WORKERS) --dist worksteal -m 'not long' $(TESTS)

test-skipped: .venv ## the tests that were skipped when they were last run
	@$(call tested,'',--last-skipped)

test-long: .venv ## the tests that take minutes
	@$(call tested,long)

# A part of the tests that shows whether everything works together at all, on other versions than those in
# constraints.txt; `PART=...` names another one.
PART := examples/portico-claude-agent-sdk/tests $(addprefix tests/,config core gateway server cli/test_main.py cli/test_tokens.py \
  $(addprefix plugins/,echo jwt_auth metrics sqlite_store token_auth test_manager.py) \
  $(addprefix transports/test_,asgi.py http.py openapi.py overridden.py sse.py tls.py websocket.py wire.py) \
  $(addprefix e2e/test_,agents.py gateway.py old_data.py tickets.py turns.py websocket.py) \
  ziti/test_serving.py cli/client/test_ask.py cli/client/test_chat.py)
TOOLS := hypothesis jsonschema-rs prometheus-client pytest pytest-timeout pytest-xdist trustme
OLDEST := 3.11
PYTHONS := $(OLDEST) 3.12 3.13 3.14

.venv-floors/made: pyproject.toml constraints-floors.txt
	@python$(OLDEST) -c 'import venv, ensurepip' || { echo 'The floors are tried with Python $(OLDEST), which is not here, or has no venv module.' >&2; exit 1; }
	@echo "Making .venv-floors with $$(python$(OLDEST) --version): every direct dependency at its floor"
	@python$(OLDEST) -m venv --clear .venv-floors
	.venv-floors/bin/pip install --quiet --disable-pip-version-check -c constraints-floors.txt -e '.[all,testing]' $(TOOLS)
	@touch $@

test-floors: .venv-floors/made ## a part of the tests, with every direct dependency at its lowest version
	@$(call tested,'not long',,.venv-floors/bin/pytest,$(PART))

.venv-3.%/made: pyproject.toml constraints.txt
	@echo "Making .venv-3.$* with $$(python3.$* --version)"
	@python3.$* -m venv --clear .venv-3.$*
	.venv-3.$*/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,testing]' $(TOOLS)
	@touch $@

test-matrix: ## the same part, with each Python of 3.11 to 3.14 that is installed
	@for version in $(PYTHONS); do \
	  if ! python$$version -c 'import venv, ensurepip' 2>/dev/null; then \
	    missing="$$missing $$version"; \
	  elif $(MAKE) --no-print-directory .venv-$$version/made && $(MAKE) --no-print-directory tested-$$version; then \
	    passed="$$passed $$version"; \
	  else \
	    failed="$$failed $$version"; \
	  fi; \
	done; \
	echo; echo "Python: passed$${passed:- none}; failed$${failed:- none}; not installed here$${missing:- none}"; \
	test -z "$$failed" && test -n "$$passed"

tested-3.%:
	@$(call tested,'not long',,.venv-3.$*/bin/pytest,$(PART))

bench: .venv ## measures against bare counterparts in the same run
	$(BIN)/python -m benchmarks

bench-compare: .venv ## measures another build beside this one: OLD=REF [ONLY="NAME ..."] [ROUNDS=N]
	@test -n '$(OLD)' || { echo 'Which build to compare with? make bench-compare OLD=REF [ONLY="NAME ..."] [ROUNDS=N]' >&2; exit 2; }
	@$(BIN)/python -m benchmarks.compare '$(OLD)' $(ONLY) $(if $(ROUNDS),--rounds $(ROUNDS))

compat: .venv ## tables of client libraries, proxies and Ziti, another build beside this one: OLD=REF
	@test -n '$(OLD)' || { echo 'Which build to compare with? make compat OLD=REF' >&2; exit 2; }
	@for subject in clients proxies ziti; do $(BIN)/python -m compat $$subject --old '$(OLD)' || exit; done

check: .venv ## style, types, and whether what is installed fits together
	$(BIN)/pip check
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/ruff format --check $(CHECKED)
	$(BIN)/mypy --strict $(CHECKED)
	$(BIN)/python -m tests.docstrings

docs: .venv ## the documentation as web pages, in build/docs; a broken link stops it
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

clean: ## removes .venv, the others like it, and what the tools left
	rm -rf .venv .venv-* .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
