#!/bin/sh
# Put the locked uv, hash-checked, into /opt/uv: it installs the rest in a third of pip's time.
set -eu
[ ! -s /run/secrets/ca ] || export PIP_CERT=/run/secrets/ca
python3 -m venv /opt/uv
awk '/^[a-z]/ {uv = /^uv==/} uv' "$1" >/tmp/uv.txt
/opt/uv/bin/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r /tmp/uv.txt
