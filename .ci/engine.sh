#!/bin/sh
# A Docker engine with Compose v2 and BuildKit on a bare Debian machine, as root: engine.sh
#
# Nothing to do where one answers. Prints the daemon's process id if this started one.
# Debian 12 ships an engine of 2020 without Compose v2; the packages of Debian 13 run on it unchanged.
set -eu
docker info >/dev/null 2>&1 && docker compose version >/dev/null 2>&1 && exit 0
[ "$(id -u)" = 0 ] || { echo "engine: no Docker engine answers, and only root can install one" >&2; exit 2; }

if ! command -v dockerd >/dev/null || ! docker compose version >/dev/null 2>&1; then
    command -v apt-get >/dev/null || { echo "engine: install Docker with Compose v2 first; this script knows Debian" >&2; exit 2; }
    export DEBIAN_FRONTEND=noninteractive
    release=$(sh "$(dirname "$0")/debian-release.sh")
    echo "Installing a Docker engine" >&2
    apt-get update -qq >&2
    # Two steps: what only needs the machine's own release stays on it.
    # shellcheck disable=SC2086
    apt-get install -y -qq $release docker.io docker-cli docker-compose docker-buildx >/dev/null
    apt-get install -y -qq iptables debootstrap >/dev/null
fi

if ! docker info >/dev/null 2>&1; then
    log=/tmp/dockerd.log
    setsid dockerd >"$log" 2>&1 </dev/null &
    daemon=$!
    for _ in $(seq 60); do
        docker info >/dev/null 2>&1 && break
        kill -0 "$daemon" 2>/dev/null || break
        sleep 1
    done
    docker info >/dev/null 2>&1 || { tail -5 "$log" >&2; echo "engine: dockerd did not start, see $log" >&2; exit 1; }
    echo "$daemon"
fi
