# Every target sets itself up: a virtual environment in .venv, then the package in it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := runs/demo
# A folder or Hub id of a causal language model for the demo; empty: one is trained on the spot.
LLM ?=

.PHONY: test peft-tests quality style demo

$(VENV)/.installed: setup.cfg pyproject.toml .ci/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c .ci/constraints.txt -e ".[dev]"
	touch $@

test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadscope

# PEFT's own tests, from the source distribution of the installed version, on Bi-Tuning; and ours
# that need its optional packages.
$(VENV)/.peft-tests: $(VENV)/.installed
	$(BIN)/python -m pip install -q -c .ci/constraints.txt -e ".[dev,peft-tests]"
	touch $@

peft-tests: $(VENV)/.peft-tests
	$(BIN)/python tests/upstream/run.py
	$(BIN)/python -m pytest tests/tuner/test_quantized.py

quality: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy laser_peft

style: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

demo: $(VENV)/.installed
	rm -rf $(DEMO)
	$(BIN)/python examples/demo/make_shop.py --output $(DEMO)/shop
	$(if $(LLM),,$(BIN)/python examples/demo/make_lm.py --items $(DEMO)/shop/items.jsonl.gz --output $(DEMO)/lm)
	$(BIN)/laser-peft train --interactions $(DEMO)/shop/interactions.csv.gz \
	  --items $(DEMO)/shop/items.jsonl.gz --llm $(or $(LLM),$(DEMO)/lm) --output $(DEMO)/run \
	  --epochs 2 --validation-users 1000
	@echo "The first four items of the first shopper, then what may come next:"
	gzip -dc $(DEMO)/shop/interactions.csv.gz | sed -n 1,5p
	$(BIN)/laser-peft recommend $(DEMO)/run/recommender \
	  $$(gzip -dc $(DEMO)/shop/interactions.csv.gz | sed -n 2,5p | cut -d, -f2)
