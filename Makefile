# Two commands on a fresh machine: `make demo` and `make test`.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CONTAINER ?= docker
IMAGE_ARGS ?=
# The tests wait for processes and times often: three at once keep two cores busy.
JOBS ?= 3
# Tests start hundreds of processes, each of which would compile all modules anew.
PYTEST = env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  %-25s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $(STAMP)

.PHONY: install
install: $(STAMP) ## Install everything into .venv

.PHONY: demo
demo: $(STAMP) ## Build the zoo, serve it, train a model through the server, predict
	$(BIN)/python demo.py

.PHONY: serve
serve: $(STAMP) ## Serve the models in ./models (built from the zoo if missing)
	@test -d models || $(BIN)/layerserve zoo build --small --to models
	$(BIN)/layerserve serve models

.PHONY: test
test: $(STAMP) ## Run the tests in JOBS=3 processes (about 6 minutes on 2 cores)
	@# Many tests start servers, which would compile every module where Python writes no bytecode itself.
	@$(BIN)/python -m compileall -q client modelzoo server tests
	$(PYTEST)

.PHONY: check
check: format-check types proto-lint proto-check client-check docs-check ## Run every quality gate but the tests

.PHONY: format
format: $(STAMP) ## Format and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: format-check
format-check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: types
types: $(STAMP) ## Check types
	$(BIN)/mypy

.PHONY: proto
proto: $(STAMP) ## Make the stubs from proto/
	$(BIN)/python -m grpc_tools.protoc --proto_path=proto --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy \
	  --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc --python_out=client --grpc_python_out=client \
	  --mypy_out=quiet:client --mypy_grpc_out=quiet:client proto/layerserve/v1/*.proto
	$(BIN)/python server/generate_protocols.py

.PHONY: proto-lint
proto-lint: $(STAMP)
	$(BIN)/buf lint proto

.PHONY: proto-check
proto-check: $(STAMP)
	@rm -rf build/stubs && mkdir -p build/stubs
	@$(BIN)/python -m grpc_tools.protoc --proto_path=proto --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy \
	  --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc --python_out=build/stubs --grpc_python_out=build/stubs \
	  --mypy_out=quiet:build/stubs --mypy_grpc_out=quiet:build/stubs proto/layerserve/v1/*.proto
	@diff -r -x __init__.py -x __pycache__ build/stubs/layerserve/v1 client/layerserve/v1 \
	  || (echo 'stubs are stale: run `make proto` and commit'; exit 1)
	@$(BIN)/python server/generate_protocols.py --check

.PHONY: client
client: $(STAMP) ## Make the blocking client, and the keywords of both from their table
	$(BIN)/python client/generate.py

.PHONY: client-check
client-check: $(STAMP)
	@$(BIN)/python client/generate.py --check

.PHONY: docs
docs: $(STAMP) ## Make the pages of docs/, and the files of deploy/, that come from the code
	$(BIN)/python docs/generate.py
	$(BIN)/python deploy/generate.py

.PHONY: docs-check
docs-check: $(STAMP)
	$(BIN)/python docs/generate.py --check
	$(BIN)/python deploy/generate.py --check

.PHONY: site
site: $(STAMP) ## Build the documentation's site into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

.PHONY: image
image: ## Build the container image (CONTAINER=podman, IMAGE_ARGS='--build-arg ...')
	$(CONTAINER) build --file deploy/Containerfile --tag layerserve:latest $(IMAGE_ARGS) .
