# Two commands do all the set-up: `make demo` and `make test`. Both are quick the second time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The virtual environment is made anew when the project's needs change.
RUNTIME := $(VENV)/.runtime
DEV := $(VENV)/.dev

.PHONY: demo test test-host test-vm check bench fuzz docs clean
.DELETE_ON_ERROR:

demo: $(RUNTIME)
	@sh tools/setup.sh runtime
	@$(BIN)/glreadback snapshot "pattern:" -o snapshot.png
	@echo "The built-in pattern went through EGL and back: open $(CURDIR)/snapshot.png"
	@echo "Next: $(BIN)/glreadback --help"

test: test-host test-vm

test-host: $(DEV)
	@sh tools/setup.sh test
	$(BIN)/python -m pytest -m "not kernel" $(PYTEST_ARGS)

# Real kernel buffers, real fences: the tests marked kernel, in a VM on this machine's own root file system.
test-vm: $(DEV)
	@sh tools/setup.sh test
	$(BIN)/python tools/vm.py --pytest -- $(PYTEST_ARGS)

# What says most in the least time; `make test-host` is all of it.
FAST := $(addprefix tests/test_,$(addsuffix .py,fourcc modifier plan dmabuf frame surface fds imports scene damage vfio_wire))

check: $(DEV)
	@$(BIN)/ruff check -q .
	@$(BIN)/ruff format -q --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q -m "not kernel and not slow" $(FAST) $(PYTEST_ARGS)

bench: $(DEV)
	$(BIN)/python -m pytest tests/bench --benchmark-only

# The same pages as in docs/, and the Python reference.
docs: $(DEV)
	@$(BIN)/mkdocs build --strict
	@echo "The site: open $(CURDIR)/build/site/index.html"

# Ten minutes of hostile input; `make fuzz FUZZ_SECONDS=60` for less. CI has half a minute of it in tests/test_fuzz.py.
FUZZ_SECONDS ?= 600

fuzz: $(DEV)
	@$(BIN)/python -m pip install -q --disable-pip-version-check --group fuzz || echo "fuzz: without atheris"
	$(BIN)/python fuzz/run.py --seconds $(FUZZ_SECONDS) $(FUZZ_TARGETS)

$(RUNTIME): pyproject.toml
	@sh tools/setup.sh runtime
	@echo "setup: making $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@# Dependency groups came with pip 25.1.
	@$(BIN)/python -m pip install -q --disable-pip-version-check "pip>=25.1"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -e .
	@touch $@

$(DEV): $(RUNTIME)
	@sh tools/setup.sh test
	@echo "setup: installing what the tests need"
	@$(BIN)/python -m pip install -q --disable-pip-version-check --group dev
	@touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks snapshot.png
