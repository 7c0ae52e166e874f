#!/bin/sh
# One training run in containers, from images to results: run-compose.sh compose-gpu|compose-cpu
#
# Reads ROUNDS, NUM_CLIENTS, DATASET (a hub name, `digits` or a folder) and CONFIG; the rest is .env's.
# Exit status: the run's. Afterwards no container is left; the prepared data and the keys stay in volumes.
set -eu
cd "$(dirname "$0")/.."
mode=$1
case $mode in
compose-gpu) profile=gpu service=supernode ;;
*) profile=cpu service=supernode-cpu ;;
esac

if ! docker compose version >/dev/null 2>&1 || ! docker info >/dev/null 2>&1; then
    echo "MODE=$mode needs a Docker engine with Compose v2; MODE=local needs neither" >&2
    exit 2
fi
if [ -n "${DATASET:-}" ] && [ -d "$DATASET" ]; then
    DATASET_FOLDER=$(cd "$DATASET" && pwd)
    DATASET=
    export DATASET DATASET_FOLDER
fi
# Behind a proxy of one's own, packages come under the certificates that the tools here already trust.
export CA_CERTIFICATES="${CA_CERTIFICATES:-${PIP_CERT:-${SSL_CERT_FILE:-/dev/null}}}"
export BOUQUET_MODE="$mode"

compose() { docker compose --progress quiet --profile "$profile" "$@"; }

sh docker/base-image.sh
echo "Building the images (minutes the first time)"
compose build --quiet
trap 'compose down --timeout 5 >/dev/null 2>&1 || true' EXIT
trap 'exit 130' INT TERM
compose run --rm --no-TTY prepare
compose up --detach --scale "$service=${NUM_CLIENTS:-10}" "$service"

# A client that starts again and again never connects, and training would wait for it without end.
watch() {
    while sleep 15; do
        for client in $(compose ps --all --quiet "$service"); do
            [ "$(docker inspect --format '{{.RestartCount}}' "$client")" -lt 3 ] || {
                echo "error: a client keeps ending: $(docker logs --tail 1 "$client" 2>&1)" >&2
                compose kill superlink >/dev/null 2>&1
                return
            }
        done
    done
}
watch &
watcher=$!
trap 'kill "$watcher" 2>/dev/null || true; compose down --timeout 5 >/dev/null 2>&1 || true' EXIT

status=0
compose run --rm --no-TTY train || status=$?
mkdir -p results
if [ "$status" = 0 ]; then
    compose cp superlink:/results/. results/
    echo "On this machine: results/$(readlink results/latest)"
else
    echo "The SuperLink's last words:" >&2
    docker logs --tail 20 "$(compose ps --all --quiet superlink)" >&2
    compose cp superlink:/results/. results/ 2>/dev/null || true  # a checkpoint may be worth keeping
fi
exit "$status"
