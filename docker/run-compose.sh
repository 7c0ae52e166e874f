#!/bin/sh
# One training run in containers, from images to results: run-compose.sh compose-gpu|compose-cpu
#
# What is run stands in .env, and the environment wins over it. DATASET may be a folder here, and with APP a file.
# Exit status: the run's; 3 means finished on a subset of the clients. Afterwards no container is left; the prepared
# data, the keys and the results, from which a run goes on, stay in volumes.
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
# As `bouquet doctor` asks (app/watch/doctor/engine/compose.py). What runs in the containers looks around there.
version=$(docker compose version --short)
if [ "$(printf '2.20\n%s\n' "${version#v}" | sort -V | head -n 1)" != 2.20 ]; then
    echo "error: Compose is $version, and compose.yaml needs 2.20: upgrade the plugin docker-compose-v2, or MODE=local" >&2
    exit 2
fi
# An empty variable counts as not set, as for `bouquet up`. For Compose it would win over .env. Only an empty index of
# torch has a meaning: it is pip's own.
names=$(sed -n '/^TORCH_INDEX/d; s/^\([A-Z_]*\)=.*/\1/p' .env)
for name in $names; do
    eval "[ -n \"\${$name:-}\" ] || unset $name"
done
in_dotenv() { sed -n "s/^$1=//p" .env; }
dataset=${DATASET-$(in_dotenv DATASET)}
if [ -n "${APP:-$(in_dotenv APP)}" ] && [ -n "$dataset" ] && [ -e "$dataset" ]; then
    BOUQUET_DATASET=$(realpath "$dataset")
    DATASET=
    export DATASET BOUQUET_DATASET
elif [ -n "$dataset" ] && [ -d "$dataset" ]; then
    DATASET_FOLDER=$(cd "$dataset" && pwd)
    DATASET=
    export DATASET DATASET_FOLDER
fi
# Behind a proxy of one's own, packages come under the certificates that the tools here already trust.
if [ -z "${CA_CERTIFICATES:-$(in_dotenv CA_CERTIFICATES)}" ]; then
    export CA_CERTIFICATES="${PIP_CERT:-${SSL_CERT_FILE:-/dev/null}}"
fi
export BOUQUET_MODE="$mode"

compose() { docker compose --progress quiet --profile "$profile" "$@"; }

sh docker/base-image.sh
echo "Building the images (minutes the first time)"
compose build --quiet
app=${APP:-$(in_dotenv APP)}
if [ -n "$app" ]; then  # the images then hold it, and what it asks for
    base=${IMAGE_TAG:-$(in_dotenv IMAGE_TAG)}
    "${VENV:-.venv}/bin/bouquet" image --app "$app" --base "$base" --tag "$base-app"
    export IMAGE_TAG="$base-app" APP=
fi
aside=$(mktemp -d)
events=
trap 'kill $events 2>/dev/null || true; rm -r "$aside"; compose down --timeout 5 >/dev/null 2>&1 || true' EXIT
trap 'exit 130' INT TERM
compose run --rm --no-TTY prepare

# A client that is refused (status 77) or wrongly set up (2) never connects, and training would wait for it without
# end. Docker reports how containers end; this script stops at the first such report.
project=$(compose config --format json | sed -n 's/^  "name": "\(.*\)",*$/\1/p')
mkfifo "$aside/ended"
docker events --filter event=die --filter "label=com.docker.compose.project=$project" \
    --filter "label=com.docker.compose.service=$service" \
    --format '{{.Actor.Attributes.exitCode}} {{.Actor.ID}}' >"$aside/ended" &
events=$!
while read -r ended client; do
    case $ended in
    2 | 77)
        echo "error: a client cannot take part: $(docker logs --tail 1 "$client" 2>&1)" >&2
        compose kill superlink >/dev/null 2>&1
        break
        ;;
    esac
done <"$aside/ended" &

compose up --detach "$service"
tty=--no-TTY
[ ! -t 1 ] || tty=  # a terminal gets the live view
status=0
# shellcheck disable=SC2086
compose run --rm $tty train || status=$?
mkdir -p results
if [ "$status" = 0 ] || [ "$status" = 3 ]; then  # 3: finished on a subset of the clients
    compose cp superlink:/results/. results/
    echo "On this machine: results/$(readlink results/latest)"
else
    echo "The SuperLink's last words:" >&2
    docker logs --tail 20 "$(compose ps --all --quiet superlink)" >&2
    compose cp superlink:/results/. results/ 2>/dev/null || true  # the rounds that have finished
fi
exit "$status"
