#!/bin/sh
# What tests of pages and metrics need: Chromium, and the programs prometheus and promtool: browser.sh (as root, on Debian)
set -eu
command -v apt-get >/dev/null || { echo "browser: install chromium and prometheus first; this script knows Debian" >&2; exit 2; }
export DEBIAN_FRONTEND=noninteractive
if ! command -v chromium >/dev/null && ! command -v google-chrome >/dev/null; then
    echo "Installing Chromium" >&2
    apt-get update -qq >&2
    apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null
fi
# The two programs alone: the package would start a service.
if ! command -v promtool >/dev/null || ! command -v prometheus >/dev/null; then
    echo "Fetching Prometheus" >&2
    apt-get update -qq >&2
    aside=$(mktemp -d)
    trap 'rm -r "$aside"' EXIT
    chmod 755 "$aside"
    (cd "$aside" && apt-get download -qq prometheus >/dev/null 2>&1 && dpkg-deb --extract prometheus_*.deb .)
    install -m 755 "$aside/usr/bin/prometheus" "$aside/usr/bin/promtool" /usr/local/bin/
fi
