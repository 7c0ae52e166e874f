# make run       ten clients train one model; where, it finds out and says
# make check     lint and fast tests, about two minutes
# make test      every check and test that this machine can run
# make lint      style, types, shell, Compose, Dockerfile
# make bench     what a round costs, beside what others need
# make simulate  the same app in Flower's simulation
# make images    the images
# make sbom      what they are made of, as CycloneDX; make advisories: what is known about it
# make clean     away with what the others made, results excepted

# What is run stands in .env. The environment wins over it (NUM_CLIENTS=4 make run), and make's own variables over
# both: make run CLIENTS=4 ROUNDS=2 DATASET=digits CONFIG="batch-size=64"
MODE     ?= auto
VENV     ?= .venv
ifneq ($(CLIENTS),)
export NUM_CLIENTS := $(CLIENTS)
endif

BIN := $(VENV)/bin
# A test of real processes that fails is run once more, and named at the end as RERUN.
PROCESSES := --reruns 1 -r aR
LOCKS := docker/requirements.txt docker/torch.txt docker/dev.txt docker/monitor.txt docker/export.txt docker/simulation.txt
SHELL_SCRIPTS := $(wildcard docker/*.sh docker/build/*.sh deploy/*.sh deploy/*/*.sh bench/*.sh .ci/*.sh) .ci/run

.PHONY: run run-local run-compose-cpu run-compose-gpu check test test-federation fuzz faults test-containers lint bench simulate images sbom advisories venv clean

run:
	@mode=$$(sh docker/choose-mode.sh $(MODE)) && $(MAKE) --no-print-directory run-$$mode

run-local: venv
	@$(BIN)/bouquet up

# Images with another app in them are made by `bouquet image`.
run-compose-cpu run-compose-gpu: $(if $(or $(APP),$(shell sed -n 's/^APP=//p' .env)),venv)
	@VENV=$(VENV) sh docker/run-compose.sh $(@:run-%=%)

check: lint
	$(BIN)/python -m pytest -n auto tests/unit

test: check test-federation test-containers

test-federation: venv  # real SuperLinks and SuperNodes; two files at a time, because most tests wait
	$(BIN)/python -m pytest $(PROCESSES) -n 2 --dist loadfile tests/federation tests/apps tests/faults tests/attacks tests/fuzz tests/watch

fuzz: venv  # every parser with 100,000 cases; `make test` gives each 2,000
	BOUQUET_FUZZ=long $(BIN)/python -m pytest -n auto --timeout 18000 tests/fuzz

faults: venv  # tests/faults in its long form: a server that is away for two minutes
	BOUQUET_FAULTS=long $(BIN)/python -m pytest --timeout 3600 tests/faults

test-containers: venv
	$(BIN)/python -m pytest $(PROCESSES) tests/containers tests/kubernetes

lint: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/shellcheck $(SHELL_SCRIPTS)
	$(BIN)/hadolint docker/Dockerfile
	@sh docker/check-compose.sh

bench: venv  # BENCH="--quick" passes options on
	$(BIN)/python -m bench $(BENCH)

simulate: venv
	$(BIN)/bouquet simulate

images:
	sh docker/base-image.sh
	docker compose --profile cpu --profile gpu --profile monitor build

sbom advisories:
	@sh docker/audit.sh $@

venv: $(VENV)/.locked

$(VENV)/.locked: $(LOCKS) docker/venv.sh
	rm -rf $(VENV)
	sh docker/venv.sh $(VENV)
	@touch $@

clean:
	-docker compose --profile '*' down --volumes --remove-orphans 2>/dev/null
	rm -rf $(VENV) .bouquet .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
