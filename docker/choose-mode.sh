#!/bin/sh
# How `make run` runs here: choose-mode.sh auto|compose-gpu|compose-cpu|local
# Prints the mode; says why on standard error.
set -eu
here=$(dirname "$0")

choose() {
    if ! command -v docker >/dev/null; then
        echo local "there is no docker command"
    elif ! docker info >/dev/null 2>&1; then
        echo local "no Docker engine answers this user"
    elif ! docker compose version >/dev/null 2>&1; then
        echo local "this Docker has no Compose v2"
    elif ! sh "$here/base-image.sh" 2>/dev/null; then
        echo local "the base image is neither here nor can Docker pull it"
    elif nvidia-smi -L >/dev/null 2>&1 && docker info 2>/dev/null | grep -qiE 'nvidia|cdi:'; then
        echo compose-gpu "Docker and an NVIDIA GPU are here"
    else
        echo compose-cpu "Docker is here, and no NVIDIA GPU that it can use"
    fi
}

case $1 in
auto)
    choose | {
        read -r mode why
        echo "MODE=$mode: $why" >&2
        echo "$mode"
    }
    ;;
compose-gpu | compose-cpu | local)
    echo "MODE=$1: as asked" >&2
    echo "$1"
    ;;
*)
    echo "MODE=$1 is none of auto, compose-gpu, compose-cpu, local" >&2
    exit 2
    ;;
esac
