# Python 3.11+ and make are all that this file needs; everything else is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Demonstrations and tests keep to stores of their own, whichever MLflow the user works with.
unexport MLFLOW_TRACKING_URI

.PHONY: demo demo-suite search-demo search-full test test-unit lint bench soak clean help

help:
	@echo "make demo   train, evaluate and review a small CLIP on real pictures (about 15 minutes on 2 cores)"
	@echo "make demo-suite   after it: probes, few-shot, robustness and overlap too (minutes)"
	@echo "make search-demo   a search of settings and a scaling search on the demonstration's corpus"
	@echo "make search-full   scaling laws and a comparison of objectives, as far as a small machine goes (hours)"
	@echo "make test   all tests;  make test-unit: those without servers and clusters"
	@echo "make lint   ruff and mypy"
	@echo "make bench  speed, side by side with open_clip and CLIP_benchmark"
	@echo "make soak   tests and measurements that take hours"

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than 3.11; run make PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,test]'
	# A peer that tests compare with; its own dependencies are many and not needed for that.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps clip-benchmark==1.6.2
	@touch $@

demo: $(READY)
	@$(BIN)/python -m cliploom.demo

demo-suite: $(READY)
	@$(BIN)/python jobs/evaluate.py --config jobs/configs/demo.yaml evaluate.model=models:/emoji-clip@champion \
	  evaluate.suite=jobs/configs/suites/demo-full.yaml evaluate.overlap.manifest=demo/shards run.name=demo-suite

search-demo: $(READY)
	@$(BIN)/python -m cliploom.demo.search demo

search-full: $(READY)
	@$(BIN)/python -m cliploom.demo.search full

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test-unit: $(READY)
	$(BIN)/python -m pytest -m "not integration and not slow"

test: $(READY)
	$(BIN)/python -m pytest -m "not slow"

# open_clip, whom we measure against, in an environment of its own; without what its training script alone needs.
.venv-peer/.ready: constraints.txt
	$(PYTHON) -m venv .venv-peer
	.venv-peer/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch numpy pillow
	.venv-peer/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt \
	  torchvision open_clip_torch timm ftfy regex tqdm huggingface-hub safetensors wcwidth pyyaml packaging \
	  clip-benchmark==1.6.2 scikit-learn scipy joblib threadpoolctl \
	  webdataset==0.2.86 braceexpand  # its reader of shards breaks with webdataset 1
	.venv-peer/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt pandas requests cloudpickle narwhals
	@touch $@

bench: $(READY) .venv-peer/.ready
	$(BIN)/python tests/benchmarks/model.py --output build/model.json
	PYTHONPATH=tests $(BIN)/python tests/benchmarks/data.py --output build/data.json
	$(BIN)/python tests/benchmarks/training.py --output build/training.json
	PYTHONPATH=tests $(BIN)/python tests/benchmarks/embed.py --output build/embed.json
	PYTHONPATH=tests $(BIN)/python tests/benchmarks/evaluation.py --output build/evaluation.json

soak: $(READY)
	$(BIN)/python -m pytest -m "slow"

clean:
	rm -rf $(VENV) .venv-peer demo build .mypy_cache .pytest_cache .ruff_cache .hypothesis
