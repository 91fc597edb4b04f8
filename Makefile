# make demo: install, extract the demo's features, train every method, print their table.
# make test: install what tests need, run all tests in WORKERS processes.  make docs: the documentation as a site, in site/.
# make check: format, lint and types alone, which make test begins with.  make coverage: the tests once more, with the lines that they run.
# make mutants: changes that the tests of the cache and the heads do not notice, among N (SEED chooses them); minutes.
# make fuzz: thousands of odd inputs for every reader of what comes from outside, and a table of what became of them.
PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
N ?= 200
SEED ?= 1
LUIGI = $(VENV)/bin/luigi --module tasks
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check

.PHONY: demo test check coverage fuzz mutants docs clean

demo: $(VENV)/.installed
	$(LUIGI) ExtractFeatures
	$(LUIGI) CompareHeads --methods drin,mimic,dwe,dsmip,fused --text-only

test: check
	$(VENV)/bin/python -m pytest -n $(WORKERS)

check: $(VENV)/.installed-test
	$(VENV)/bin/python -m ruff format --check --quiet .
	$(VENV)/bin/python -m ruff check .
	$(VENV)/bin/python -m mypy

coverage: $(VENV)/.installed-test
	$(PIP) install -q 'pytest-cov>=7'
	$(VENV)/bin/python -m pytest -n $(WORKERS) --cov --cov-report=term

mutants: $(VENV)/.installed-test
	$(PIP) install -q 'cosmic-ray>=8.4' 'coverage>=7.10'
	$(VENV)/bin/python tests/mutants.py --number $(N) --seed $(SEED)

fuzz: $(VENV)/.installed-test
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 PYTHONPATH=.:tests $(VENV)/bin/python -m fuzz.campaign $(FUZZ)

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14) and "Python 3.11 to 3.13 is needed, found " + sys.version.split()[0] + "; name one with make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

# ultralytics wants opencv-python, deepface opencv-contrib-python-headless, and both write the folder cv2. The headless one stays:
# it has all that the other has but windows, which nothing here opens, and needs no libraries of a desktop.
define install
	$(PIP) install -q -e '.[$(1)]'
	$(PIP) uninstall -q -y opencv-python opencv-contrib-python-headless
	$(PIP) install -q --no-deps opencv-contrib-python-headless
	touch $@
endef

$(VENV)/.installed: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(call install,all)

$(VENV)/.installed-test: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(call install,test)
	touch $(VENV)/.installed

$(VENV)/.installed-docs: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(PIP) install -q 'mkdocs-material>=9.6'
	touch $@

clean:
	rm -rf artifacts site
