#!/bin/sh
# The package itself: wheel.sh tools | build | install
#   tools    the locked, hash-checked hatchling beside uv
#   build    a wheel of the current folder into /dist
#   install  that wheel into /opt/bouquet, bytecode compiled, without dependencies: the image has them already
set -eu
[ ! -s /run/secrets/ca ] || export SSL_CERT_FILE=/run/secrets/ca
export UV_LINK_MODE=copy
case $1 in
tools)
    awk '/^[a-z]/ {keep = /^(hatchling|packaging|pathspec|pluggy|trove-classifiers)==/} keep' \
        /tmp/requirements.txt /tmp/dev.txt >/tmp/hatchling.txt
    /opt/uv/bin/uv pip install --quiet --python /opt/uv/bin/python --require-hashes --no-deps -r /tmp/hatchling.txt
    ;;
build)
    /opt/uv/bin/python -m hatchling build --target wheel --directory /dist >/dev/null
    ;;
install)
    /opt/uv/bin/uv pip install --quiet --no-cache --offline --python /opt/bouquet --no-deps /dist/*.whl
    cd "$(/opt/bouquet/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
    /opt/bouquet/bin/python -m compileall -q app bouquet
    ;;
esac
