# `make demo` and `make test` need Python 3.11 or later and make; everything else is installed into .venv.
# A Linux machine without an NVIDIA GPU avoids PyTorch's CUDA build with TORCH=cpu, as in `make demo TORCH=cpu`: it
# downloads about 420 MB instead of 3.0 GB. TORCH_INDEX names another package index for PyTorch than pip's own.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
TOOLS := .venv/tools
PIP := $(BIN)/python -m pip install --no-input --disable-pip-version-check
TORCH_PIN := $(shell sed -n '/^torch==/p' requirements.txt)
GPU := $(shell command -v nvidia-smi 2>/dev/null)
DEMO := outputs/demo.mp4

ifneq ($(filter-out cpu,$(TORCH)),)
$(error TORCH is '$(TORCH)'; cpu is allowed, or leave it out)
endif
ifeq ($(TORCH)$(TORCH_INDEX),cpu)
TORCH_INDEX := https://download.pytorch.org/whl/cpu
endif

.PHONY: install demo test check bench bench-gpu bench-lips serve soak clean
.DEFAULT_GOAL := demo

install: $(READY)

$(READY): requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; name one with PYTHON=")'
ifneq ($(TORCH_INDEX),)
	@echo "Installing into .venv, PyTorch from $(TORCH_INDEX): PyTorch's CPU build and the rest are about 420 MB."
else ifeq ($(shell uname -s)$(GPU),Linux)
	@echo "Installing into .venv. No NVIDIA GPU is found: 'make demo TORCH=cpu' downloads about 420 MB, PyTorch's default CUDA build makes it 3.0 GB."
else
	@echo "Installing into .venv: about 420 MB, on Linux 3.0 GB with PyTorch's CUDA build."
endif
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
ifneq ($(TORCH_INDEX),)
	$(PIP) --index-url $(TORCH_INDEX) "$(TORCH_PIN)"
endif
	$(PIP) -r requirements.txt
	@touch $@

# What tests, deployments and training need besides. Dependency groups need pip 25.1.
$(TOOLS): $(READY) pyproject.toml
	$(PIP) --quiet "pip>=25.1"
	$(PIP) -c requirements.txt ".[deploy,training]" --group dev
	@touch $@

# The built-in model, conditioned as InfiniteTalk is: with MultiTalk's conditioning its faces wear off in long videos.
demo: $(READY)
	@mkdir -p $(dir $(DEMO))
	MULTITALK_MODEL=infinitetalk-puppet $(BIN)/python predict.py \
	    -i image=@examples/two_people.png -i audio_mode=para \
	    -i first_audio=@examples/talk_anna.flac -i second_audio=@examples/talk_ben.flac \
	    -i prompt="Anna and Ben talking" -i preset=fast -i seed=2 -o $(DEMO) --overwrite
	@echo
	@echo "The video: $(CURDIR)/$(DEMO)"

# Two tests at a time, each on one core: threads that wait for each other on busy cores take far longer.
test: $(TOOLS)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not soak" --timeout 900 -n 2 --dist loadfile

check: $(TOOLS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# The GPU tests, then the benchmarks of the 14B model with random weights. Writes benchmarks/results/gpu.json,
# compiled.json and docs/performance.md. A failed stage (status 1) is reported; the others still run.
bench-gpu: $(TOOLS)
	$(BIN)/python -m pytest -m gpu
	$(BIN)/python -m benchmarks.gpu --output benchmarks/results/gpu.json; status=$$?; \
	    test $$status -le 1 && $(BIN)/python -m benchmarks.speed.compiled && $(BIN)/python -m benchmarks.report.performance && \
	    exit $$status

# Lip sync, wear and the quality cost of every option: about two hours on two cores. Writes benchmarks/results/lipsync.json,
# quality_cost.json and docs/quality-vs-speed.md.
bench-lips: $(TOOLS)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.quality.lipsync --vae --jobs 2 --output benchmarks/results/lipsync.json
	$(BIN)/python -m benchmarks.quality.quality_cost

# The built-in model and a block of the 14B model on this CPU, beside the eager baseline: three minutes on two cores.
# Writes benchmarks/results/bench.json and docs/performance.md; the last line is plain_over_ours=<ratio>.
bench: $(TOOLS)
	@$(BIN)/python -m benchmarks.speed.bench

# 500 requests to one server, then the long tests. Writes benchmarks/results/soak.json.
soak: $(TOOLS)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.endurance.soak
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m soak --timeout 900

# The built-in model, unless MULTITALK_MODEL names another.
ifndef MULTITALK_MODEL
serve: export MULTITALK_MODEL := multitalk-puppet
endif
serve: $(READY)
	@exec $(BIN)/python -m src.serving.cog.server

clean:
	rm -rf .venv .cog .mypy_cache .pytest_cache .ruff_cache outputs
