# make demo   sets everything up and runs the main job on embedded photographs
# make test   sets everything up and runs the tests
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install demo test docs lint format clean

install: $(STAMP)

# torch and torchvision come together from one index; basicsr's build needs torch at hand, or it fetches a second one.
$(STAMP): setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(not (3, 10) <= v <= (3, 12) and "sptsr needs Python 3.10 to 3.12, this is %d.%d; say make PYTHON=python3.12" % v)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip "setuptools>=77,<80" wheel
	$(BIN)/python -m pip install --quiet torch torchvision
	$(BIN)/python -m pip install --quiet cython numpy
	$(BIN)/python -m pip install --quiet --no-build-isolation basicsr==1.4.2
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $@

demo: install
	$(BIN)/sptsr demo

test: install
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# The docs site, into site/. A link that leads nowhere or an option that nothing explains fails it.
docs: install
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	$(BIN)/python scripts/docs_pages.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist site *.egg-info
