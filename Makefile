# make demo   sets everything up and runs the main job on embedded photographs
# make test   sets everything up and runs the tests
PYTHON ?= python3
VENV ?= .venv
# What pip installs for torch, options of pip included: TORCH="torch torchvision --index-url URL" takes another build.
TORCH ?= torch torchvision
# processes that share the tests; PYTEST_ARGS="-n 0 --pdb" runs them in one
TEST_WORKERS ?= 2
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install demo test docs wheel lint format clean

install: $(STAMP)

# torch and torchvision come from one index in one command: builds of two places do not fit together.
# tb-nightly, which stock BasicSR brings, occupies the files of tensorboard: an environment made before goes on without it.
$(STAMP): setup.py pyproject.toml scripts/build_basicsr.py
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(v < (3, 10) and "sptsr needs Python 3.10 or later, this is %d.%d; say make PYTHON=python3.12" % v)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip uninstall -qqq --yes tb-nightly
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python scripts/build_basicsr.py -o $(VENV)/wheels
	$(BIN)/python -m pip install --quiet $(VENV)/wheels/basicsr-*.whl --editable ".[dev,docs]"
	@touch $@

demo: install
	$(BIN)/sptsr demo

test: install
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist worksteal --durations=25 $(PYTEST_ARGS)

# The docs site, into site/. A link that leads nowhere or an option that nothing explains fails it.
docs: install
	$(BIN)/python scripts/docs_pages.py

# The wheel of sptsr, in dist/, after a look at what is in it and at how it runs away from the checkout.
wheel: install
	$(BIN)/python scripts/check_wheel.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist site *.egg-info
