#!/bin/sh
# The pair torch and torchvision, from one index, into /opt/bouquet:
#   torch.sh INDEX   from INDEX, hash-checked where the lock of its builds (torch-cpu.txt) is there; or where INDEX is
#                    empty or cannot be reached, the locked and hash-checked wheels of the default index.
set -eu
[ ! -s /run/secrets/ca ] || export SSL_CERT_FILE=/run/secrets/ca
export UV_LINK_MODE=copy
index=$1
lock=/opt/lock/torch.txt
if [ -f /opt/lock/torch-cpu.txt ]; then
    pair="--require-hashes -r /opt/lock/torch-cpu.txt"
else
    pair=$(awk '/^(torch|torchvision)==/ {print $1}' "$lock")
fi

install() {
    /opt/uv/bin/uv pip install --quiet --python /opt/bouquet --no-deps --compile-bytecode "$@"
}

# shellcheck disable=SC2086  # several words
if [ -n "$index" ] && install --default-index "$index" $pair 2>/tmp/uv.log; then
    echo "torch and torchvision from $index"
elif [ -n "$index" ] && ! grep -qiE 'fetch|connect|dns|resolve host|timed? ?out' /tmp/uv.log; then
    cat /tmp/uv.log >&2
    exit 1
else
    [ -z "$index" ] || echo "$index is out of reach: taking the CUDA builds of the default index (a larger image)"
    install --require-hashes -r "$lock"
fi
rm -f /tmp/uv.log

# What only a compiler could use. triton writes GPU kernels for torch.compile with the help of a C compiler,
# and there is none in these images.
cd "$(/opt/bouquet/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
rm -rf triton torch/include torch/test torch/share torch/lib/*.a nvidia/*/include
find nvidia -name '*.a' -delete 2>/dev/null || true
