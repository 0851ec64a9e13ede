# `make run` and `make test` set up what they need in $(VENV) first, and again only when the requirements change.
#   PYTHON=python3.12    the Python to use; by default the newest of 3.13, 3.12 and 3.11 that runs
#   VENV=.venv312        where to install
#   CONSTRAINTS=FILE     a pip constraints file
#   TORCH_INDEX=URL      take torch and torchvision from this index (pytorch.org names one of CPU-only wheels;
#                        without it pip on Linux takes the CUDA build, which also runs on a CPU)
#   SHARED=DIR           photos and weights for `make results`
#   ARGS="..."           more arguments for `make run` (python -m kd_utils run) or `make test` (pytest)
VENV ?= .venv
PYTHON ?=
CONSTRAINTS ?=
TORCH_INDEX ?=
ARGS ?=
SHARED ?= ../shared
PEER = $(SHARED)/weights/realesr-animevideov3.pth
VGG = $(SHARED)/weights/vgg19_features_to_conv3_4.pth

PY := $(VENV)/bin/python
UV := $(shell uv --version >/dev/null 2>&1 && echo uv)
PIP = $(if $(UV),uv pip install --python $(PY),$(PY) -m pip install --disable-pip-version-check) \
      $(if $(CONSTRAINTS),-c "$(CONSTRAINTS)")
# The stamps' names hold a checksum of all that the installation depends on.
KEY := $(shell { cat requirements.txt pyproject.toml "$(or $(CONSTRAINTS),/dev/null)"; echo "$(TORCH_INDEX)"; } | cksum | tr ' ' -)
RUN := $(VENV)/.installed-run-$(KEY)
DEV := $(VENV)/.installed-dev-$(KEY)
DOCS := $(VENV)/.installed-docs-$(KEY)
FITS := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
MINOR := import sys; print(sys.version_info[:2])
# a comma as it stands would end an argument of $(call)
comma := ,

help: ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*##/\t/' | expand -t 12

run: $(RUN) ## install, then the whole pipeline on the bundled photos into workdir/
	-$(PY) -m kd_utils fetch anime_6B --rounded
	$(PY) -m kd_utils run --preset quick --workdir workdir $(ARGS)
	@echo "next      source $(VENV)/bin/activate, then: kd-utils --help"

test: lint ## install with the development tools, then lint and all tests
	$(PY) -m pytest $(ARGS)

test-fast: lint ## lint, and the tests that take two minutes (all but those marked slow)
	$(PY) -m pytest -m "not slow" $(ARGS)

test-browser: $(DEV) ## every notebook in JupyterLab in Chromium, screenshots into screenshots/ (minutes; wants Chromium)
	$(PY) -m pytest tests/browser $(ARGS)

test-colab: $(DEV) ## every notebook on a twin of Colab in .venv-colab (wants Python 3.13, ../shared and 6 GB of disk)
	$(PY) -m pytest tests/twin $(ARGS)

coverage: $(DEV) ## the fast tests, and which lines of kd_utils they run
	$(PY) -m pytest -q -m "not slow" --cov=kd_utils --cov-report=term:skip-covered $(ARGS)

lint: $(DEV) ## ruff: rules and format, notebooks too; pyright: types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pyright --pythonpath $(PY)

results: $(RUN) ## docs/RESULTS.md and the README's table from SHARED: photos/valid, photos/set5, weights (minutes)
	@for f in "$(SHARED)/photos/valid" "$(SHARED)/photos/set5" "$(PEER)" "$(VGG)"; do [ -e "$$f" ] || { \
	  echo "$$f is missing: name the folder that has photos/ and weights/, make results SHARED=DIR" >&2; exit 1; }; done
	$(PY) -m benchmarks.results --valid "$(SHARED)/photos/valid" --set5 "$(SHARED)/photos/set5" \
	  --peer "$(PEER)" --vgg "$(VGG)" $(ARGS)

docs-notebooks: $(RUN) ## run the notebooks on the bundled photos and put executed copies into docs/notebooks/ (minutes)
	$(PY) docs/execute_notebooks.py $(ARGS)

torture: $(DEV) ## kills, damage, two runs, lost Drives, full disks, mutated inputs (minutes; ARGS="--kills 100 --seed 1")
	OMP_NUM_THREADS=1 $(PY) -m benchmarks.torture $(ARGS)

bench: $(DEV) ## speed beside what people run instead: tables, and bench.json (minutes; ARGS="--threads 2 --quick")
	$(PY) -m kd_utils fetch anime_6B animevideov3 --rounded
	$(PY) -m benchmarks.bench $(ARGS)

docs: $(DOCS) ## the site of docs/ in site/, with the executed notebooks of docs/notebooks/
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict $(ARGS)

demo: $(RUN) ## the student in the browser, at http://127.0.0.1:8008/ (the first time it fetches onnxruntime-web)
	$(PY) -m kd_utils demo $(ARGS)

notebook: $(DEV) ## JupyterLab on the notebooks
	$(PY) -m jupyterlab notebooks $(ARGS)

pictures: $(RUN) ## the README's hero picture and animation, by the student that ships (ARGS="--model anime-m")
	$(PY) -m benchmarks.pictures $(ARGS)

badges: $(RUN) ## rewrite every Colab badge from REPO_SLUG in kd_utils/own_files.py, and the lists of models in the notebooks
	$(PY) -m kd_utils badges

install: $(RUN) ## only install

venv: $(PY) ## only make the virtual environment

clean: ## remove the virtual environment and the caches, never a workdir
	@[ ! -e "$(VENV)" ] || [ -f "$(VENV)/pyvenv.cfg" ] || { echo "$(VENV) is no virtual environment: not removed" >&2; exit 1; }
	rm -rf "$(VENV)" .pytest_cache .ruff_cache *.egg-info
	find kd_utils tests notebooks -name __pycache__ -type d -prune -exec rm -rf {} +

$(PY):
	@if [ -e "$(VENV)" ] && [ ! -f "$(VENV)/pyvenv.cfg" ]; then \
	  echo "VENV=$(VENV) exists and is no virtual environment: name another folder" >&2; exit 1; fi; \
	python=; for p in $(or $(PYTHON),python3.13 python3.12 python3.11 python3 python); do \
	  if "$$p" -c '$(FITS)' >/dev/null 2>&1; then python=$$p; break; fi; done; \
	if [ -z "$$python" ]; then \
	  echo "No Python 3.11, 3.12 or 3.13 that runs was found$(if $(PYTHON), at PYTHON=$(PYTHON)):" \
	    "install one, or name one: make PYTHON=/path/to/python3.12" >&2; exit 1; fi; \
	if [ -z "$(UV)" ] && ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
	  pkg=$$("$$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'); \
	  echo "$$python has no ensurepip and cannot make a virtual environment: on Debian or Ubuntu apt-get install $$pkg;" \
	    "or install uv; or name another Python: make PYTHON=/path/to/python3.12" >&2; exit 1; fi; \
	echo "Making $(VENV) with $$("$$python" -V) ($$(command -v "$$python"))"; \
	rm -rf "$(VENV)"; \
	if [ -n "$(UV)" ]; then uv venv -q --seed --python "$$("$$python" -c 'import sys; print(sys.executable)')" "$(VENV)"; \
	else "$$python" -m venv "$(VENV)"; fi || { rm -rf "$(VENV)"; exit 1; }

# basicsr's setup.py asks for torch to be built with: without its build isolation it takes the one installed before,
# where pip would download a second one. Its own build needs pip 23.1 or later, so pip is brought up to date.
# opencv-python needs libGL, which a bare server or container lacks: the headless build has the same modules without it.
define install
	@if [ -n "$(CONSTRAINTS)" ] && [ ! -f "$(CONSTRAINTS)" ]; then echo "CONSTRAINTS=$(CONSTRAINTS): no such file" >&2; exit 1; fi; \
	if [ -n "$(PYTHON)" ] && [ "$$($(PY) -c '$(MINOR)')" != "$$("$(PYTHON)" -c '$(MINOR)')" ]; then \
	  echo "$(VENV) has $$($(PY) -V), not $$("$(PYTHON)" -V): make clean first, or name another VENV=" >&2; exit 1; fi; \
	rm -f $(VENV)/.installed-*; \
	for part in torch official others; do case $$part in \
	  torch) grep -E '^torch' requirements.txt ;; official) grep -E '^(realesrgan|basicsr)' requirements.txt ;; \
	  *) grep -vE '^(realesrgan|basicsr)' requirements.txt ;; esac >$(VENV)/$$part.txt; done
	$(if $(UV),,$(PIP) -U pip)
	$(if $(TORCH_INDEX),$(PIP) --index-url "$(TORCH_INDEX)" -r $(VENV)/torch.txt)
	$(PIP) -r $(VENV)/others.txt "setuptools>=77"
	$(PIP) --no-build-isolation -r $(VENV)/official.txt
	$(PIP) -e "$(1)"
	@$(PY) -c 'import cv2' 2>/dev/null || { \
	  echo "opencv-python does not load here ($$($(PY) -c 'import cv2' 2>&1 | tail -n 1)): laying the headless build over it"; \
	  $(PIP) --no-deps $(if $(UV),--reinstall,--force-reinstall) \
	    "opencv-python-headless==$$($(PY) -c 'from importlib.metadata import version; print(version("opencv-python"))')" \
	  && $(PY) -c 'import cv2'; }
endef

$(RUN): | $(PY)
	$(call install,.)
	@touch $@

$(DEV): | $(PY)
	$(call install,.[dev])
	@touch $(RUN) $@

$(DOCS): | $(PY)
	$(call install,.[dev$(comma)docs])
	@touch $(RUN) $(DEV) $@

.PHONY: help run test test-browser test-colab coverage test-fast lint torture bench docs docs-notebooks results notebook pictures badges install venv clean
