# make run       ten clients train one model; where, it finds out and says
# make test      every check and test that this machine can run
# make lint      style, types, shell, Compose, Dockerfile
# make bench     what a round costs, beside what others need
# make simulate  the same app in Flower's simulation
# make images    the two images
# make clean     away with what the others made, results excepted

ROUNDS   ?=
CLIENTS  ?= 10
DATASET  ?=
CONFIG   ?=
MODE     ?= auto
VENV     ?= .venv
export ROUNDS DATASET CONFIG
export NUM_CLIENTS := $(CLIENTS)

BIN := $(VENV)/bin
LOCKS := docker/requirements.txt docker/torch.txt docker/dev.txt docker/simulation.txt
SHELL_SCRIPTS := $(wildcard docker/*.sh docker/build/*.sh deploy/*.sh deploy/*/*.sh bench/*.sh) .ci/run

.PHONY: run run-local run-compose-cpu run-compose-gpu test lint bench simulate images venv clean

run:
	@mode=$$(sh docker/choose-mode.sh $(MODE)) && $(MAKE) --no-print-directory run-$$mode

run-local: venv
	@$(BIN)/bouquet up

run-compose-cpu run-compose-gpu:
	@sh docker/run-compose.sh $(@:run-%=%)

test: lint
	$(BIN)/python -m pytest

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
	docker compose --profile cpu --profile gpu build

venv: $(VENV)/.locked

$(VENV)/.locked: $(LOCKS) docker/venv.sh
	rm -rf $(VENV)
	sh docker/venv.sh $(VENV)
	@touch $@

clean:
	-docker compose --profile '*' down --volumes --remove-orphans 2>/dev/null
	rm -rf $(VENV) .bouquet .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
