# `make test` and `make bench` set up all they need in .venv; repeated, they start at once.

PYTHON ?= python3
# Any torch >= 2.11 that is installed already is kept.
TORCH ?= torch==2.13.0
PY := .venv/bin/python
# Python compiles what is imported: all 18,000 files take two minutes. It keeps that, or every process would do so again.
export PIP_COMPILE := 0
export PYTHONDONTWRITEBYTECODE :=
SOURCES := pyproject.toml setup.py CMakeLists.txt $(wildcard csrc/*.* csrc/*/*.*)

.PHONY: env test aot bench sanitize gpu peers lint types docs

env: .venv/installed

$(PY):
	$(PYTHON) -m venv .venv

.venv/installed: $(SOURCES) | $(PY)
	$(PY) -c "import torch" 2>/dev/null || $(PY) -m pip install $(TORCH)
	$(PY) -m pip install -q "setuptools>=77.0.3" cmake ninja
	$(PY) -m pip uninstall -qy lifter 2>/dev/null # what this distribution was called once
	$(PY) -m pip install -q --no-build-isolation -e ".[test]"
	@if cat lifter/_build_failure.txt 2>/dev/null; then echo "WARNING: no C++ kernels (why: above)"; else touch $@; fi

# The oldest Triton that pyproject.toml allows, for tests/test_triton_aot.py.
OLDEST_TRITON := build/oldest-triton/installed
$(OLDEST_TRITON): | env
	$(PY) -m pip install -q --no-deps --upgrade --target $(@D) triton==3.6.0 && touch $@

# MediaPipe and a real video, Sports2D's, for tests/video/test_mediapipe.py. MediaPipe asks for numpy < 2 but runs with any, and for
# an older protobuf than others: it is not told about the first, and has the second beside it.
MEDIAPIPE := build/mediapipe/installed
$(MEDIAPIPE): | env
	$(PY) -m pip install -q --no-deps --upgrade --target $(@D) "mediapipe==0.10.21" "protobuf>=4.25.3,<5" absl-py attrs flatbuffers \
	sports2d && touch $@ || echo "WARNING: no MediaPipe for this Python: its test is left out"

# Two workers on two cores: each takes one thread, but for the tests that set their own.
test: env $(OLDEST_TRITON) $(MEDIAPIPE)
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n 2 --dist worksteal --durations=30

# Every case of every Triton kernel through the compilers for a GPU, by both Tritons, of which `make test` takes a part.
aot: env $(OLDEST_TRITON)
	for path in "" $(CURDIR)/$(dir $(OLDEST_TRITON)); do for module in $$(cd kernels/triton && ls [a-z]*.py | sed 's/\.py//'); do \
	PYTHONPATH=$$path $(PY) tests/test_triton_aot.py $$module || exit 1; done; done

bench: env
	$(PY) -m benchmarks $(BENCH)

# The CPU kernels under AddressSanitizer and UndefinedBehaviorSanitizer, built beside the normal ones; without what does not run them, and without long clips and wide layers, which take minutes there.
# Two workers of two threads on two cores: a thread that waits must not spin.
# libstdc++ is loaded early too: the sanitizer looks there for what throws. --capture=sys: a sanitizer reports to the real stderr and ends the process.
sanitize: env
	LIFTER_SANITIZE=1 LIFTER_REQUIRE_BUILD=1 $(PY) setup.py -q build_ext --build-lib build/sanitize
	LIFTER_LIBRARY_DIR=$(CURDIR)/build/sanitize/lifter OMP_NUM_THREADS=2 OMP_WAIT_POLICY=passive \
	LD_PRELOAD="$$($${CXX:-c++} -print-file-name=libasan.so) $$($${CXX:-c++} -print-file-name=libstdc++.so)" ASAN_OPTIONS=detect_leaks=0 \
	$(PY) -m pytest -q -n 2 --dist worksteal --capture=sys tests/kernels -k "not reference and not opcheck and not autocast and not flops and not triton and not compile and not export and not 4131 and not test_a_long and not test_long and not endless and not official_width and not test_linear and not instruction_set"

# On a machine with a GPU and no network, with the Python and the torch that it has: the whole round, or one step of it (gpu-warm,
# gpu-attention, ...). `make peers` beforehand, where there is a network, brings what it compares with.
gpu:
	PYTHON=$(PYTHON) benchmarks/gpu_round.sh

gpu-%:
	PYTHON=$(PYTHON) benchmarks/gpu_round.sh $*

peers:
	$(PYTHON) -m benchmarks.peers fetch

# The versions are pinned: others find other things. pyproject.toml and .clang-format-ignore name the files that are not
# formatted yet.
lint: | $(PY)
	$(PY) -m pip install -q ruff==0.17.6 clang-format==23.1.5
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	.venv/bin/clang-format --dry-run -Werror csrc/*.cpp csrc/*.h csrc/*/*.cpp csrc/*/*.h

# pyright on the modules that pyproject.toml names. It reads torch's types, so it needs the environment.
types: env
	$(PY) -m pip install -q "pyright[nodejs]==1.1.414"
	$(PY) -m pyright --pythonpath $(PY)

# The documentation, to build/docs/index.html.
docs: env
	$(PY) -m pip install -q --no-build-isolation -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet
