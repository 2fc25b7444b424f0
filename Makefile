# Everything runs in .venv, which every target sets up by itself. PYTHON=/path/to/python3.10 chooses the interpreter.

ITERATIONS ?= 300
TEST_PROCESSES ?= 2
DEMO_OUTPUT ?= output/demo

VENV := .venv
VENV_PYTHON := $(VENV)/bin/python
SAHI := $(VENV)/sahi
REQUIREMENTS := requirements/constraints-py310.txt requirements/py310.txt requirements/detectron2.txt

# PIP_USER=0: with `user = true` in its configuration pip refuses to install into an environment. Twice quiet: errors only.
PIP_INSTALL := PIP_USER=0 $(VENV_PYTHON) -m pip install --quiet --quiet --no-input --disable-pip-version-check
PIP_CONSTRAINED := $(PIP_INSTALL) --constraint requirements/constraints-py310.txt

# An environment is bound to its folder and to the Python below it: one that was moved, copied along with its checkout,
# left half made or cut off from its Python is made anew. .venv/.checkout holds the folder; .venv/.installing is there
# while packages are installed, and stays if that does not come to its end.
VENV_USABLE := $(shell test "$$(cat $(VENV)/.checkout 2>/dev/null)" = "$(CURDIR)" && test ! -e $(VENV)/.installing \
	&& $(VENV_PYTHON) -c 'import pip' 2>/dev/null && echo yes)
ifneq ($(VENV_USABLE),yes)
REMAKE := remake
endif

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test lint docs doctor bench-setup clean remake

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' Makefile

setup: $(VENV)/.project ## Make .venv with exact versions (about 6 GB); does nothing where it is up to date

demo: setup ## Find nuclei, convert the sample, fine-tune to four classes, evaluate, predict (ITERATIONS=300, DEMO_OUTPUT=output/demo)
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" ITERATIONS="$(ITERATIONS)" DEMO_OUTPUT="$(DEMO_OUTPUT)" tools/demo.sh

# One thread a process: with busy cores two threads wait for each other and take several times as long. The modules that
# have examples in their docstrings are run as tests as well.
test: setup ## Run the tests (PYTEST_ARGS="-k stitch" to choose, TEST_PROCESSES=8 on a larger machine)
	OMP_NUM_THREADS=1 $(VENV_PYTHON) -m pytest -n $(TEST_PROCESSES) --dist loadfile --doctest-modules tests \
		$$(grep -rl --include='*.py' '^ *>>> ' cellseg_d2) $(PYTEST_ARGS)

lint: setup ## Check style and types
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m ruff format --check .
	$(VENV_PYTHON) -m mypy

docs: setup ## Write docs/commands.md from the parsers
	$(VENV_PYTHON) -m cellseg_d2.commands.reference > docs/commands.md

doctor: setup ## Print what a bug report needs, and what is wrong with this installation
	@$(VENV_PYTHON) tools/doctor.py

bench-setup: setup $(SAHI)/.packages ## Install SAHI beside .venv's packages, for tools/benchmark.py stitch and predict

clean: ## Remove .venv, caches and build products; keeps output/ and datasets/
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find cellseg_d2 tests tools -type d -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/.packages: $(REQUIREMENTS) $(REMAKE)
	@case "$$(uname -sm)" in "Linux x86_64") ;; *) \
		echo "make setup needs Linux on x86-64, for which Detectron2 has a wheel; README.md has the way for other systems" >&2; \
		exit 2 ;; esac
	@if [ "$(VENV_USABLE)" != yes ]; then \
		if [ ! -e $(VENV)/.checkout ] && [ ! -e $(VENV)/.installing ] && $(VENV_PYTHON) -c '' 2>/dev/null; then \
			echo "$(VENV) is an environment that make setup did not make: move it away, or remove it with make clean" >&2; \
			exit 2; fi; \
		python=$$(tools/find_python.sh) || exit 2; \
		rm -rf $(VENV) && mkdir $(VENV) && touch $(VENV)/.installing && "$$python" -m venv $(VENV) && echo "$(CURDIR)" > $(VENV)/.checkout; fi
	@touch $(VENV)/.installing
	@echo "Installing into $(VENV): about 6 GB, a few minutes and no output until it is done"
	@$(PIP_CONSTRAINED) setuptools wheel
	@$(PIP_CONSTRAINED) --no-build-isolation --requirement requirements/py310.txt
	@$(PIP_INSTALL) --no-deps --requirement requirements/detectron2.txt
	@rm $(VENV)/.installing
	@touch $@

$(VENV)/.project: $(VENV)/.packages setup.py
	@$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

# SAHI asks for numpy 2 and a second OpenCV, so it comes without what it asks for, in an environment of its own, which
# goes on to look in .venv: so both sides of a benchmark run with the same packages.
$(SAHI)/.packages: requirements/sahi.txt $(VENV)/.packages
	@echo "Installing SAHI into $(SAHI), which uses the packages of $(VENV)"
	@rm -rf $(SAHI) && $(VENV_PYTHON) -m venv --without-pip $(SAHI)
	@folder='import sysconfig; print(sysconfig.get_path("purelib"))'; \
		echo "import site; site.addsitedir('$$($(VENV_PYTHON) -c "$$folder")')" > "$$($(SAHI)/bin/python -c "$$folder")/venv.pth"
	@PIP_USER=0 $(VENV_PYTHON) -m pip --python $(SAHI)/bin/python install --quiet --quiet --no-input \
		--disable-pip-version-check --no-deps --requirement requirements/sahi.txt
	@touch $@
