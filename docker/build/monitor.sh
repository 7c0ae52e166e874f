#!/bin/sh
# What `bouquet monitor` needs beside the other packages, into /opt/monitor, hash-checked, bytecode compiled.
set -eu
[ ! -s /run/secrets/ca ] || export SSL_CERT_FILE=/run/secrets/ca
export UV_LINK_MODE=copy
/opt/uv/bin/uv pip install --quiet --python /opt/bouquet --target /opt/monitor --require-hashes --no-deps --compile-bytecode \
    -r /opt/lock/monitor.txt
