#!/bin/sh
# Install Debian packages while an image builds. A base image that brings its own Python keeps it.
set -eu
# python3-venv serves Debian's Python only; others hold venv and pip already.
if command -v python3 >/dev/null && python3 -c 'import sys; sys.exit(sys.prefix == "/usr")'; then
    exit 0
fi
# The cache mounts are worth something only when apt keeps what it downloads.
set -- -o Binary::apt::APT::Keep-Downloaded-Packages=true --no-install-recommends "$@"
[ ! -s /run/secrets/ca ] || set -- -o Acquire::https::CaInfo=/run/secrets/ca "$@"
export DEBIAN_FRONTEND=noninteractive
rm -f /etc/apt/apt.conf.d/docker-clean
apt-get update -qq
apt-get install -y -qq "$@" >/dev/null
rm -f /var/log/dpkg.log /var/log/apt/*.log* /var/log/alternatives.log
