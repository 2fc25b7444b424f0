# Everything runs in .venv, which every target sets up by itself, from the newest Python of 3.10 to 3.13 that is found.
# PYTHON=/path/to/python3.12 chooses another one, VENV=.venv-3.12 another folder.

ITERATIONS ?= 300
TEST_PROCESSES ?= 2
DEMO_OUTPUT ?= output/demo

VENV ?= .venv
VENV_PYTHON := $(VENV)/bin/python
SAHI := $(VENV)/sahi
STARDIST := $(VENV)-stardist
REQUIREMENTS := $(addprefix requirements/,build.txt py310.txt current.txt detectron2.txt)

# PIP_USER=0: with `user = true` in its configuration pip refuses to install into an environment. Twice quiet: errors only.
PIP_INSTALL := PIP_USER=0 $(VENV_PYTHON) -m pip install --quiet --quiet --no-input --disable-pip-version-check
PIP_LOCKED := $(PIP_INSTALL) --no-deps --no-build-isolation --require-hashes

# Nothing here needs Detectron2's compiled part, so the Python files of its one wheel serve every Python and system. pip
# takes a wheel of another Python only with --target.
DETECTRON2_WHEEL := --upgrade --only-binary=:all: --python-version 3.10 --implementation cp --abi cp310 \
	--platform linux_x86_64
SITE_PACKAGES = $$($(VENV_PYTHON) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
LOCK = requirements/$$($(VENV_PYTHON) -c 'import sys; print("py310" if sys.version_info < (3, 11) else "current")').txt

# An environment is bound to its folder and to the Python below it. One that was moved, copied along with its checkout,
# left half made, cut off from its Python, or made with another version than PYTHON's is made again. .venv/.checkout holds
# the folder; .venv/.installing is there while packages are installed, and stays if the installation fails.
VERSION_OF = -c 'import sys; print(sys.version_info[:2])' 2>/dev/null
VENV_USABLE := $(shell test "$$(cat $(VENV)/.checkout 2>/dev/null)" = "$(CURDIR)" && test ! -e $(VENV)/.installing \
	&& $(VENV_PYTHON) -c 'import pip' 2>/dev/null \
	&& test -z "$(PYTHON)" -o "$$($(VENV_PYTHON) $(VERSION_OF))" = "$$($(or $(PYTHON),python3) $(VERSION_OF))" && echo yes)
ifneq ($(VENV_USABLE),yes)
REMAKE := remake
endif

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test lint docs doctor gpu-check bench bench-setup clean remake

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' Makefile

setup: $(VENV)/.project ## Make .venv with exact versions (about 6 GB); does nothing where it is up to date

demo: setup ## Find nuclei, convert the sample, fine-tune to four classes, evaluate, predict (ITERATIONS=300, DEMO_OUTPUT=output/demo)
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" ITERATIONS="$(ITERATIONS)" DEMO_OUTPUT="$(DEMO_OUTPUT)" tools/demo.sh

# One thread a process: with busy cores two threads wait for each other and take several times as long. The modules that
# have examples in their docstrings are run as tests as well. A process that dies ends the run, which might wait for ever.
test: setup ## Run the tests (PYTEST_ARGS="-k stitch" to choose, TEST_PROCESSES=8 on a larger machine)
	OMP_NUM_THREADS=1 $(VENV_PYTHON) -m pytest -n $(TEST_PROCESSES) --dist loadfile --max-worker-restart 0 --doctest-modules tests \
		$$(grep -rl --include='*.py' '^ *>>> ' cellseg_d2) $(PYTEST_ARGS)

lint: setup ## Check style and types
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m ruff format --check .
	$(VENV_PYTHON) -m mypy

docs: setup ## Write docs/commands.md from the parsers
	$(VENV_PYTHON) -m cellseg_d2.commands.reference > docs/commands.md

doctor: setup ## Print what a bug report needs, and what is wrong with this installation
	@$(VENV_PYTHON) tools/doctor.py

gpu-check: setup ## Compare the GPUs with the CPU and write output/gpu-check.md; a machine without one is told so
	@$(VENV_PYTHON) -m benchmarks.gpu_check --output output/gpu-check.md

bench: setup ## Measure all that needs no training, in ten minutes, and write output/bench.md (docs/benchmarks.md has more)
	@OMP_NUM_THREADS=1 $(VENV_PYTHON) tools/benchmark.py all --output output/bench.md

bench-setup: setup $(SAHI)/.packages $(STARDIST)/.packages ## Install SAHI and StarDist beside .venv, for tools/benchmark.py stitch, predict and accuracy

clean: ## Remove .venv, caches and build products; keeps output/ and datasets/
	rm -rf .venv .venv-* build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find cellseg_d2 tests tools -type d -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/.packages: $(REQUIREMENTS) $(REMAKE)
	@if [ "$(VENV_USABLE)" != yes ]; then \
		if [ ! -e $(VENV)/.checkout ] && [ ! -e $(VENV)/.installing ] && $(VENV_PYTHON) -c '' 2>/dev/null; then \
			echo "$(VENV) is an environment that make setup did not make: move it away, or remove it with make clean" >&2; \
			exit 2; fi; \
		python=$$(tools/find_python.sh) || exit 2; \
		rm -rf $(VENV) && mkdir $(VENV) && touch $(VENV)/.installing && "$$python" -m venv $(VENV) && echo "$(CURDIR)" > $(VENV)/.checkout; fi
	@touch $(VENV)/.installing
	@echo "Installing into $(VENV): about 6 GB, a few minutes and no output until it is done"
	@$(PIP_LOCKED) --requirement requirements/build.txt
	@$(PIP_LOCKED) --requirement "$(LOCK)"
	@$(PIP_LOCKED) $(DETECTRON2_WHEEL) --target "$(SITE_PACKAGES)" --requirement requirements/detectron2.txt
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

# StarDist brings TensorFlow, which has requirements of its own, so this environment shares nothing with .venv.
$(STARDIST)/.packages: requirements/stardist.txt $(VENV)/.packages
	@echo "Installing StarDist and TensorFlow into $(STARDIST): about 2 GB"
	@rm -rf $(STARDIST) && $(VENV_PYTHON) -m venv $(STARDIST)
	@PIP_USER=0 $(STARDIST)/bin/python -m pip install --quiet --quiet --no-input --disable-pip-version-check --no-deps \
		--require-hashes --only-binary=:all: --requirement requirements/stardist.txt
	@touch $@
