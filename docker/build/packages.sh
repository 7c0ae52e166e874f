#!/bin/sh
# Everything but torch and torchvision into /opt/bouquet, hash-checked, bytecode compiled: a process that
# starts in a read-only container cannot keep what it compiles. Flower would install the requirements of an
# app at run time with uv; the images hold them all and that is switched off, so uv stays outside.
set -eu
[ ! -s /run/secrets/ca ] || export SSL_CERT_FILE=/run/secrets/ca
export UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never

awk '/^[a-z]/ {uv = /^uv==/} !uv' /opt/lock/requirements.txt >/tmp/requirements.txt
/opt/uv/bin/uv venv --quiet --python "$(command -v python3)" /opt/bouquet
/opt/uv/bin/uv pip install --quiet --python /opt/bouquet --require-hashes --no-deps --compile-bytecode \
    -r /tmp/requirements.txt
rm /tmp/requirements.txt
cd "$(/opt/bouquet/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

# The packages' own test suites, with the private keys that one of them tests with.
find Crypto matplotlib networkx numpy pandas pyarrow scipy sklearn sympy -type d \( -name tests -o -name SelfTest \) \
    -prune -exec rm -rf {} +
