#!/bin/sh
# kubectl, whose kustomize renders the manifests for the tests: kubectl.sh (as root, on Debian)
set -eu
command -v kubectl >/dev/null && exit 0
command -v apt-get >/dev/null || { echo "kubectl: install it first; this script knows Debian" >&2; exit 2; }
export DEBIAN_FRONTEND=noninteractive
release=$(sh "$(dirname "$0")/debian-release.sh")
echo "Installing kubectl" >&2
apt-get update -qq >&2
# shellcheck disable=SC2086
apt-get install -y -qq $release kubectl >/dev/null
