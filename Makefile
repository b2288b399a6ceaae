# make demo   trains on built-in façades and finishes with sample images and a metrics table
# make test   checks style and types, then runs every test; COVERAGE=60: also fails below 60 % of lines; WORKERS=3: by
#             three processes, up to 4 GB each
# make soak   repeats the trials of tests/faults at random moments for some minutes: make soak MINUTES=120
# make lint   checks style and types only
# make venv   only creates the environment
# make bench  times training, translation, data, start-up and growth, beside other programs, into benchmarks/RESULTS.md
# make clean  removes the environment and the output of demo
#
# Each creates .venv first, and again if the requirements or the Python version change: make test PYTHON=python3.13

PYTHON ?= python3
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
BIN := .venv/bin
INSTALLED := .venv/.installed-$(VERSION)
REQUIREMENTS := $(if $(shell nvidia-smi -L 2>/dev/null),requirements-cuda.txt,requirements.txt)
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
DEMO ?= runs/demo
MINUTES ?= 60
WORKERS ?= 2
LINES := .pytest_cache/coverage.json
MEASURED := -m slipcover --source pix2pix_jax --json --out $(LINES)

.PHONY: demo test soak lint bench venv clean
.DELETE_ON_ERROR:

$(INSTALLED): requirements.txt requirements-cuda.txt pyproject.toml
	@echo "Installing into .venv. This takes about two minutes and prints little."
	$(PYTHON) -m venv --clear .venv
	$(PIP) install -r $(REQUIREMENTS)
	$(PIP) install --config-settings editable_mode=compat -e '.[test]'
	touch $@

venv: $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/python main.py --config=configs/procedural.py --workdir=$(DEMO)
	@echo "Look at $(DEMO)/eval/val/grid.png (input, output, target) and $(DEMO)/curves.png."

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

test: lint
	mkdir -p $(dir $(LINES))
	$(BIN)/python $(if $(COVERAGE),$(MEASURED)) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder tests
	$(if $(COVERAGE),$(BIN)/python -m slipcover --merge $(LINES) --out $(LINES) --skip-covered --fail-under $(COVERAGE))

soak: $(INSTALLED)
	PIX2PIX_SOAK=$(MINUTES) $(BIN)/python -m pytest -rP tests/faults

bench: $(INSTALLED)
	$(BIN)/python benchmarks/run_all.py $(if $(shell nvidia-smi -L 2>/dev/null),--gpu)

clean:
	rm -rf .venv $(DEMO)
