PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The tests compare with PyTorch. Any build of it will do, and the CPU's is the smallest:
# make test TORCH="torch --index-url https://download.pytorch.org/whl/cpu"
TORCH ?= torch==2.13.0
# Where training data lies, for `make bundle`.
SQUAD ?= ../shared/squad
# What the bundle's score is measured on: questions that the checkpoint has not seen, as `finetune`
# writes them beside it. Without them it has none.
HELD_OUT ?=

# Of each of the four tests under load, in seconds.
CHAOS_SECONDS ?= 270

.PHONY: demo test chaos lint wheel proto bundle docs

## demo: set up, serve the default bundle, ask, and evaluate (DATA=dev-v2.0.json for a file of yours)
demo: $(VENV)/.server
	@BIN=$(BIN) DATA="$(DATA)" bash benchmarks/scripts/demo.sh

## test: set up and pass the tests
test: $(VENV)/.dev
	$(BIN)/python -m pytest

## chaos: the tests of tests/reliability for twenty minutes; their figures in build/chaos/report.md
chaos: $(VENV)/.dev
	CHAOS_SECONDS=$(CHAOS_SECONDS) $(BIN)/python -m pytest tests/reliability
	cat build/chaos/report.md

## lint: style, types, and who may import whom
lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=. $(BIN)/lint-imports

## docs: the pages in docs/ as a site in build/site
docs:
	test -x $(VENV)-docs/bin/python || $(PYTHON) -m venv $(VENV)-docs
	$(VENV)-docs/bin/pip install --quiet 'mkdocs-material>=9.6' 'mkdocstrings[python]>=0.27'
	NO_MKDOCS_2_WARNING=1 $(VENV)-docs/bin/mkdocs build --strict

## wheel: build it, install it where nothing else is, and ask the default bundle
wheel:
	rm -rf build dist $(VENV)-wheel
	$(PYTHON) -m venv $(VENV)-wheel
	$(VENV)-wheel/bin/pip wheel --quiet --no-deps --wheel-dir dist .
	$(VENV)-wheel/bin/pip install --quiet "electra-qa[server] @ file://$$(ls $(CURDIR)/dist/*.whl)"
	cd / && $(CURDIR)/$(VENV)-wheel/bin/electra-qa ask "Who founded Rome?" \
		--context "Rome was founded by Romulus in 753 BC, says the legend." --json | grep Romulus

## proto: the stubs in electra_qa/rpc, by the oldest tools whose output the newest runtime takes
proto: $(VENV)-proto/.done
	PATH=$(CURDIR)/$(VENV)-proto/bin:$$PATH python -m grpc_tools.protoc \
		-I electra_qa/rpc=proto --python_out=. --grpc_python_out=. \
		--mypy_out=quiet:. --mypy_grpc_out=quiet:. $(wildcard proto/*.proto)

## bundle: the default bundle anew, from the checkpoint in models/ and training data
bundle: $(VENV)/.dev
	$(BIN)/electra-qa build --checkpoint models/electra-minilm-squad2 \
		--output electra_qa/default_bundle --precision int8 --quantization-seconds 0 \
		--calibration $(SQUAD)/train/squadshifts-amazon.json \
		--calibration $(SQUAD)/train/squadshifts-reddit.json \
		$(if $(HELD_OUT),--data $(HELD_OUT) --max-f1-drop 1)

$(VENV)/.server: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -e '.[server]'
	touch $@

$(VENV)/.dev: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet -e '.[dev]'
	touch $@

# The last Transformers that had the pipeline, which ours is compared with.
$(VENV)-pipeline/.done:
	test -x $(VENV)-pipeline/bin/python || $(PYTHON) -m venv $(VENV)-pipeline
	$(VENV)-pipeline/bin/pip install --quiet $(TORCH)
	$(VENV)-pipeline/bin/pip install --quiet 'transformers==5.2.*'
	touch $@

$(VENV)-proto/.done:
	$(PYTHON) -m venv $(VENV)-proto
	$(VENV)-proto/bin/pip install --quiet grpcio-tools==1.76.0 mypy-protobuf==3.7.0
	touch $@
