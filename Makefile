# Two commands on a fresh machine: `make demo` and `make test`.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
T ?= grpcio
KILLS ?= 30
WORKERS ?= 1
GB ?= 10
CONTAINER ?= docker
IMAGE_ARGS ?=
ARGS ?=
PEERS ?=
FUZZ ?= graphs
# The tests wait for processes and times often: three at once keep two cores busy.
JOBS ?= 3
SECONDS ?= 600
# COUNT, SEED, CASE and MUTANT have no value here: each script has defaults of its own. `$(call flag,seed,SEED)` is
# `--seed 7` if SEED is 7, and nothing if it isn't set.
flag = $(if $($(2)),--$(1) '$($(2))')
SEEDS = $(COUNT) $(call flag,seed,SEED) $(call flag,case,CASE)
# The command of a Python with another Keras, and a folder with a Keras 3 for the Python of VENV. An error if a target needs it.
PEER ?= $(error PEER is not set: the command of a Python with another Keras)
KERAS ?= $(error KERAS is not set: a folder made by `pip install --no-deps --target FOLDER keras==3.8.0`)
# A folder with a virtual environment, or a `pip install --no-deps --target` of a Keras 3, for each release to compare with.
GENERATIONS ?= $(error GENERATIONS is not set: a folder with a virtual environment, or a Keras 3, for each release)
# Tests start hundreds of processes, each of which would compile all modules anew.
PYTEST = env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder
# Where the scripts of tests/ find one another.
TESTS := PYTHONPATH=tests:tests/support:tests/generators:tests/proofs

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
test: $(STAMP) ## Run the tests in JOBS=3 processes (under 10 minutes on 2 cores)
	$(PYTEST)

.PHONY: just-booted
just-booted: $(STAMP) ## Run the tests with clocks as on a machine that has just booted; needs root (ARGS='tests/layerserve -x')
	@test $$(id -u) = 0 || (echo 'only root may set the clocks of a time namespace: run `make just-booted` as root'; exit 1)
	up=$$(cut -d. -f1 /proc/uptime); unshare --time --fork --kill-child --monotonic=-$$up --boottime=-$$up $(PYTEST) $(ARGS)

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
proto-check: $(STAMP) ## Check that the committed stubs are those of proto/
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
client-check: $(STAMP) ## Check that what `make client` makes is committed
	@$(BIN)/python client/generate.py --check

.PHONY: docs
docs: $(STAMP) ## Make the pages of docs/, and the files of deploy/, that come from the code
	$(BIN)/python docs/generate.py
	$(BIN)/python deploy/generate.py

.PHONY: docs-check
docs-check: $(STAMP)
	$(BIN)/python docs/generate.py --check
	$(BIN)/python deploy/generate.py --check

.PHONY: manifests
manifests: $(STAMP) ## Validate manifests, chart, alerts and dashboard offline
	$(BIN)/python -m pytest -q tests/deploy

.PHONY: deploy-check
deploy-check: manifests ## Also run helm lint, hadolint, checkov, and the models of KServe and Kubeflow (ARGS='--checkov COMMAND --kserve PYTHON --kubeflow PYTHON')
	$(TESTS) $(BIN)/python tests/proofs/deploy_check.py $(ARGS)

.PHONY: monitoring
monitoring: $(STAMP) ## Have a real Prometheus ask all queries of the alerts and the dashboard of a live server (needs prometheus)
	$(TESTS) $(BIN)/python tests/proofs/monitoring.py

.PHONY: site
site: $(STAMP) ## Build the documentation's site into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

.PHONY: tutorials
tutorials: $(STAMP) ## Run the pages of the tutorials and quick starts with stock Keras, as readers do
	DOCS_KERAS=stock KERAS_BACKEND=torch $(BIN)/python -m pytest -q tests/documentation -k 'docs/tutorials or docs/start'

.PHONY: languages
languages: $(STAMP) ## Compile the clients in Go, Java and TypeScript, and compare them with the Python client (ARGS=go)
	$(TESTS) $(BIN)/python tests/proofs/languages.py $(ARGS)

FUZZERS := graphs masks operations engines training
.PHONY: fuzz $(addprefix fuzz-,$(FUZZERS) workers keras3 tensorflow_training)
fuzz: fuzz-$(FUZZ) ## Compare COUNT random cases from SEED on, or CASE alone (FUZZ=graphs, masks, operations, engines, training, workers, keras3 with KERAS=folder, tensorflow_training with PEER=Python)

$(addprefix fuzz-,$(FUZZERS)): fuzz-%: $(STAMP)
	$(TESTS) $(BIN)/python tests/fuzz/$*.py $(SEEDS)

fuzz-workers: $(STAMP)
	$(TESTS) GLOO_SOCKET_IFNAME=lo $(BIN)/torchrun --standalone --local-addr localhost --nproc-per-node 2 tests/fuzz/workers.py $(SEEDS)

fuzz-keras3: $(STAMP)
	rm -rf build/fuzz/keras3
	$(TESTS):$(KERAS) $(BIN)/python tests/fuzz/keras3.py make build/fuzz/keras3 $(SEEDS)
	$(TESTS) $(BIN)/python tests/fuzz/keras3.py check build/fuzz/keras3 $(call flag,case,CASE)

fuzz-tensorflow_training: $(STAMP)
	rm -rf build/fuzz/tensorflow_training
	$(TESTS) $(PEER) tests/fuzz/tensorflow_training.py make build/fuzz/tensorflow_training $(SEEDS)
	$(TESTS) $(BIN)/python tests/fuzz/tensorflow_training.py check build/fuzz/tensorflow_training $(call flag,case,CASE)

.PHONY: open-inference
open-inference: $(STAMP) ## Compare what Triton's client gets with the SDK, over both transports (PEER=a Python with tritonclient)
	$(TESTS) $(BIN)/python tests/proofs/open_inference.py "$(PEER)" $(ARGS)

.PHONY: telemetry
telemetry: $(STAMP) ## Have a real Prometheus and a receiver of OTLP read a live server (T=grpcio or native; needs prometheus)
	$(TESTS) $(BIN)/python tests/proofs/telemetry.py $(T)

.PHONY: tensorflow-serving
tensorflow-serving: $(STAMP) ## Compare what TensorFlow Serving's client gets with the SDK and TensorFlow's exports (PEER=PYTHON, ARGS="--maker PYTHON ...")
	$(TESTS) $(BIN)/python tests/proofs/compare_tensorflow_serving.py "$(PEER)" $(ARGS)

.PHONY: guide-training
guide-training: $(STAMP) ## Train the guide's models at their sizes, through a server and in stock Keras
	$(TESTS) $(BIN)/python tests/proofs/guide_training.py $(ARGS)

.PHONY: estimates
estimates: $(STAMP) ## Compare estimates of the guide's models with their runs: time, memory, disk space (ARGS='NAME ... --small')
	$(TESTS) $(BIN)/python tests/proofs/estimate_runs.py $(ARGS)

.PHONY: engines
engines: $(STAMP) ## Run the tests of the layers with each engine in torch's place
	@for engine in onnxruntime torchscript openvino; do \
	  LAYERGRAPH_TEST_ENGINE=$$engine $(BIN)/python -m pytest -q -s tests/layergraph || exit 1; done

.PHONY: int8
int8: $(STAMP) ## Time int8 beside float32 on ResNet50 and MobileNetV2, and compare their outputs (ARGS='--published' for a trained one)
	$(TESTS) $(BIN)/python tests/proofs/int8.py $(ARGS)

.PHONY: applications
applications: $(STAMP) ## Compare every model of keras.applications with stock Keras (ARGS='--tensorflow PYTHON' for NASNet)
	$(TESTS) $(BIN)/python tests/proofs/compare_applications.py $(ARGS)

.PHONY: hub
hub: $(STAMP) ## Compare every layer, backbone and task with KerasHub in both directions (PEER=a Python with keras-hub)
	@rm -rf build/hub
	KERAS_BACKEND=torch $(TESTS) $(PEER) tests/proofs/hub_oracle.py make build/hub
	$(TESTS) $(BIN)/python tests/proofs/compare_hub.py build/hub
	KERAS_BACKEND=torch $(TESTS) $(PEER) tests/proofs/hub_oracle.py check build/hub

.PHONY: converts
converts: $(STAMP) ## Export the zoo, keras.applications and COUNT random graphs as ONNX and .pt2, and compare (COUNT=500 SEED=0 ARGS='--only zoo')
	rm -rf build/converts
	$(TESTS):tests/fuzz $(BIN)/python tests/proofs/converts.py build/converts $(SEEDS) $(ARGS)

.PHONY: text-training
text-training: $(STAMP) ## Train models of text that the Kerases of PEERS make (PEERS="--peer 'Keras 2.15=PYTHON' ...")
	$(TESTS) $(BIN)/python tests/proofs/text_training.py $(PEERS) $(ARGS)

.PHONY: published
published: $(STAMP) ## Compare models out of packages with the Kerases of PEERS (PEERS="--peer 'Keras 2.15=PYTHON' ...")
	$(TESTS) $(BIN)/python tests/proofs/compare_published.py build/published $(PEERS) $(ARGS)

.PHONY: canary
canary: $(STAMP) ## Shift the share of a canary while eight clients send requests (ARGS="--transport native --workers 2")
	$(TESTS) $(BIN)/python tests/proofs/canary_shifts.py $(ARGS)

.PHONY: swaps
swaps: $(STAMP) ## Upload, roll back, label and delete versions while eight clients predict (ARGS="--swaps 50")
	$(TESTS) $(BIN)/python tests/proofs/managed_swaps.py $(ARGS)

.PHONY: stores
stores: $(STAMP) ## Serve from emulators of Google's and Azure's stores, and from a stand-in for a hub (ARGS="gs --azurite PROGRAM"; see the script for its packages)
	$(TESTS) $(BIN)/python tests/proofs/stores.py $(ARGS)

.PHONY: many-models
many-models: $(STAMP) ## Serve 1,000 models with room for 50: start, first requests, memory, requests beside loads (ARGS="--models N --room N --workers 2")
	$(TESTS) $(BIN)/python tests/proofs/many_models.py $(ARGS)

.PHONY: http-clients
http-clients: $(STAMP) ## Compare answers over HTTP with the SDK's: Triton's client, KServe's (also over gRPC), requests (ARGS="MODELS --triton PYTHON --kserve PYTHON")
	$(TESTS) $(BIN)/python tests/proofs/compare_http.py $(ARGS)

.PHONY: kills
kills: $(STAMP) ## Kill training runs and servers KILLS times at random moments (KILLS=30, WORKERS=1, ARGS=--attacks)
	$(TESTS) $(BIN)/python tests/proofs/kill_runs.py $(KILLS) $(WORKERS) $(ARGS)

.PHONY: online-kills
online-kills: $(STAMP) ## Kill sessions of online training and servers KILLS times at random moments (KILLS=30, ARGS="--transport native --workers 2 --replay")
	$(TESTS) $(BIN)/python tests/proofs/kill_sessions.py $(KILLS) $(ARGS)

.PHONY: sweep-kills
sweep-kills: $(STAMP) ## Kill trials and servers during sweeps at random moments (ARGS="--sweeps 3 --trials 20")
	$(TESTS) $(BIN)/python tests/proofs/kill_sweeps.py $(ARGS)

.PHONY: round-trips
round-trips: $(STAMP) ## Open with PEER (TensorFlow 2.15) its models that were saved here: every layer, COUNT random graphs (COUNT=200)
	rm -rf build/round-trips
	$(TESTS) $(PEER) tests/proofs/round_trips.py make build/round-trips $(or $(COUNT),200)
	$(TESTS) $(BIN)/python tests/proofs/round_trips.py back build/round-trips
	$(TESTS) $(PEER) tests/proofs/round_trips.py check build/round-trips

.PHONY: compiled-round-trips
compiled-round-trips: $(STAMP) ## Train on with PEER (tf.keras 1.14 to 2.15, or Keras 3) compiled models that were saved and trained here
	rm -rf build/compiled-round-trips
	$(TESTS) $(PEER) tests/proofs/compare_round_trips.py make build/compiled-round-trips
	$(TESTS) $(BIN)/python tests/proofs/compare_round_trips.py pass build/compiled-round-trips
	$(TESTS) $(PEER) tests/proofs/compare_round_trips.py check build/compiled-round-trips

.PHONY: structures
structures: $(STAMP) ## Compare COUNT random graphs that PEER (TensorFlow 1 or 2) builds and saves (COUNT=100 SEED=0)
	rm -rf build/structures
	$(TESTS) $(PEER) tests/generators/make_structures.py build/structures $(or $(COUNT),100) $(SEED)
	$(TESTS) $(BIN)/python tests/proofs/compare_structures.py build/structures

.PHONY: generations
generations: $(STAMP) ## Compare every layer, masks and COUNT random graphs with each release in GENERATIONS (a folder of virtual environments and of Keras 3s)
	$(TESTS) $(BIN)/python tests/proofs/compare_generations.py $(GENERATIONS) build/generations $(call flag,count,COUNT) $(call flag,seed,SEED) $(ARGS)

.PHONY: exports
exports: $(STAMP) ## Open with PEER (TensorFlow 2.15) what is saved here for Keras 2, and train it on
	rm -rf build/exports
	$(TESTS) $(BIN)/python tests/proofs/compare_exports.py write build/exports
	$(TESTS) $(PEER) tests/proofs/compare_exports.py check build/exports

.PHONY: mutants
mutants: $(STAMP) ## Put COUNT plausible bugs into the code, one at a time: do tests fail? (COUNT=300 SEED=1 ROOM= MUTANT= JOBS=3)
	$(BIN)/python tests/mutants $(call flag,count,COUNT) $(call flag,seed,SEED) --jobs $(JOBS) $(call flag,room,ROOM) $(call flag,mutant,MUTANT) $(ARGS)

.PHONY: attack
attack: $(STAMP) ## Attack servers, with an honest caller beside (ARGS='--transport native --workers 1 --only Watch')
	$(TESTS) $(BIN)/python -m attack $(ARGS)

.PHONY: soak
soak: $(STAMP) ## Everything at once for SECONDS (SECONDS=600, ARGS='--transport native --workers 2')
	$(TESTS) $(BIN)/python -m attack.soak --seconds $(SECONDS) $(ARGS)

BENCHES := $(addprefix bench-,load compute serving overload memory sdk train train-beside run-start)
.PHONY: bench $(BENCHES)
bench: $(BENCHES) ## Run every benchmark; each also by name (make bench-train ARGS='--tensorflow PYTHON')
$(BENCHES): $(STAMP)
	$(BIN)/python benchmarks/$(subst -,_,$@).py $(ARGS)

.PHONY: replicas
replicas: $(STAMP) ## Predict on replicas behind HAProxy and by the client's balancing while they are killed and replaced (ARGS="--counts 2 8")
	$(TESTS) $(BIN)/python tests/proofs/replicas.py $(ARGS)

.PHONY: two-hosts
two-hosts: $(STAMP) ## Train a run by two processes in two network namespaces, as two pods do; needs root
	$(TESTS) $(BIN)/python tests/proofs/two_hosts.py

.PHONY: large-data
large-data: $(STAMP) ## Train on GB gigabytes with 1 GB of memory (GB=10)
	$(TESTS) $(BIN)/python tests/proofs/large_data.py $(GB)

.PHONY: datasets
datasets: $(STAMP) ## Upload a dataset through cuts and kills, and use it in ten runs, counting the bytes (ARGS=2 gigabytes)
	$(TESTS) $(BIN)/python tests/proofs/datasets.py $(ARGS)

.PHONY: sizes
sizes: $(STAMP) ## Load files of 1,000, 10,000 and 100,000 layers, calls or inputs: seconds and memory (ARGS='--forms dense')
	$(TESTS) $(BIN)/python tests/proofs/sizes.py build/sizes $(ARGS)

.PHONY: profile
profile: $(STAMP) ## Show where the time of one request goes, stage by stage (T=native for the other transport)
	$(BIN)/python benchmarks/profile_request.py --transport $(T)

.PHONY: image
image: ## Build the container image (CONTAINER=podman, IMAGE_ARGS='--build-arg ...')
	$(CONTAINER) build --file deploy/Containerfile --tag layerserve:latest $(IMAGE_ARGS) .

.PHONY: image-check
image-check: $(STAMP) ## Run the built image without rights, predict, and stop it (CONTAINER=podman, ARGS='--image layerserve:latest')
	$(TESTS) $(BIN)/python tests/proofs/image.py --container '$(CONTAINER)' $(ARGS)
