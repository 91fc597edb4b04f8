# make demo: install, extract the demo's features, train every method, print their table.
# make test: install what tests need, run all tests in WORKERS processes.  make docs: the documentation as a site, in site/.
PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
LUIGI = $(VENV)/bin/luigi --module tasks

.PHONY: demo test docs clean

demo: $(VENV)/.installed
	$(LUIGI) ExtractFeatures
	$(LUIGI) CompareHeads --methods drin,mimic,dwe,dsmip,fused --text-only

test: $(VENV)/.installed-test
	$(VENV)/bin/python -m pytest -n $(WORKERS)

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14) and "Python 3.11 to 3.13 is needed, found " + sys.version.split()[0] + "; name one with make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install -q --disable-pip-version-check -e .
	touch $@

$(VENV)/.installed-test: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install -q --disable-pip-version-check -e '.[test]'
	touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install -q --disable-pip-version-check 'mkdocs-material>=9.6'
	touch $@

clean:
	rm -rf artifacts site
