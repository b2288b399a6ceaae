# make demo   trains on built-in façades and ends with pictures and numbers
# make test   runs every test
# make bench  times training, translation, data and starting, beside PyTorch if it is installed, into benchmarks/RESULTS.md
# make clean  removes the environment and what demo made
# Each makes .venv by itself the first time.

PYTHON ?= python3
BIN := .venv/bin
REQUIREMENTS := $(if $(shell nvidia-smi -L 2>/dev/null),requirements-cuda.txt,requirements.txt)
DEMO ?= runs/demo

.PHONY: demo test bench clean
.DELETE_ON_ERROR:

.venv/.installed: requirements.txt requirements-cuda.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $(REQUIREMENTS)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@

demo: .venv/.installed
	$(BIN)/python main.py --config=configs/procedural.py --workdir=$(DEMO)
	@echo "Look at $(DEMO)/eval/val/grid.png (input, output, target) and $(DEMO)/curves.png."

test: .venv/.installed
	$(BIN)/python -m pytest -n 2 --dist loadfile tests

bench: .venv/.installed
	$(BIN)/python benchmarks/run_all.py $(if $(shell nvidia-smi -L 2>/dev/null),--gpu)

clean:
	rm -rf .venv $(DEMO)
