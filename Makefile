# `make demo` and `make test` need Python 3.11 or later and make; everything else is installed into .venv.
# TORCH_INDEX names where PyTorch's CPU build comes from on a machine without an NVIDIA GPU;
# unset, pip's own configuration decides.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
TOOLS := .venv/tools
TORCH := $(shell sed -n '/^torch==/p' requirements.txt)
GPU := $(shell command -v nvidia-smi 2>/dev/null)
DEMO := outputs/demo.mp4

.PHONY: demo test check bench bench-gpu bench-lips serve soak clean
.DEFAULT_GOAL := demo

$(READY): requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; name one with PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
ifeq ($(GPU),)
	$(BIN)/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$(TORCH)"
endif
	$(BIN)/python -m pip install --quiet -r requirements.txt
	@touch $@

# What tests and deployments need besides. Dependency groups need pip 25.1.
$(TOOLS): $(READY) pyproject.toml
	$(BIN)/python -m pip install --quiet "pip>=25.1"
	$(BIN)/python -m pip install --quiet -c requirements.txt ".[deploy]" --group dev
	@touch $@

# The built-in model, conditioned as InfiniteTalk is: with MultiTalk's conditioning its faces wear off in long videos.
demo: $(READY)
	@mkdir -p $(dir $(DEMO))
	MULTITALK_MODEL=infinitetalk-puppet $(BIN)/python predict.py \
	    -i image=@examples/two_people.png -i audio_mode=para \
	    -i first_audio=@examples/talk_anna.flac -i second_audio=@examples/talk_ben.flac \
	    -i prompt="Anna and Ben talking" -i preset=fast -i seed=2 -o $(DEMO)
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

# Lip sync and the quality cost of every option: over an hour on two cores. Writes benchmarks/results/lipsync.json,
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
