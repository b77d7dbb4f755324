# Needs Python 3.11+, git and make; everything else goes into .venv.

BIN := .venv/bin
# Many tests wait for time limits rather than for a processor.
WORKERS := $(shell echo $$(( 2 * $$(nproc 2>/dev/null || echo 2) )))
CHECKED := $(wildcard conftest.py portico tests examples benchmarks)

.DEFAULT_GOAL := help
.PHONY: help demo test test-long check bench bench-compare clean

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
	echo "Making .venv with $$($$python --version)"; \
	$$python -m venv --clear .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[claude,dev]'
	@touch $@

demo: .venv ## serve at once, without a key, on a scripted model
	$(BIN)/portico demo

# $(call tested,MARKERS): what fails while others load the machine is run once more, by itself, and both are told. A test
# that fails by itself too has failed; one that does not depends on time, and wants mending.
tested = $(BIN)/pytest -n $(WORKERS) --dist worksteal -m $(1); status=$$?; \
	if [ $$status -eq 1 ]; then \
	  echo; echo 'Once more, by themselves, those that have failed:'; \
	  $(BIN)/pytest --last-failed --last-failed-no-failures none -m $(1); status=$$?; \
	fi; \
	exit $$status

test: .venv ## the tests, but for the long ones
	@$(call tested,'not long')

test-long: .venv ## the tests that take minutes
	@$(call tested,long)

bench: .venv ## measures against bare counterparts in the same run
	$(BIN)/python -m benchmarks

bench-compare: .venv ## measures another build beside this one: OLD=REF [ONLY="NAME ..."] [ROUNDS=N]
	@test -n '$(OLD)' || { echo 'Which build to compare with? make bench-compare OLD=REF [ONLY="NAME ..."] [ROUNDS=N]' >&2; exit 2; }
	@$(BIN)/python -m benchmarks.compare '$(OLD)' $(ONLY) $(if $(ROUNDS),--rounds $(ROUNDS))

check: .venv ## style, types, and whether what is installed fits together
	$(BIN)/pip check
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/ruff format --check $(CHECKED)
	$(BIN)/mypy --strict $(CHECKED)

clean: ## removes .venv and what the tools left
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
