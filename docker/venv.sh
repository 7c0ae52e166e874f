#!/bin/sh
# A virtual environment with what the lock files name, hash-checked: venv.sh DIRECTORY [simulation]
#
# PYTHON       The Python to use, 3.11 or newer; default python3.
# TORCH_INDEX  Take torch and torchvision from this index (https://download.pytorch.org/whl/cpu: 0.2 GB
#              instead of the default CUDA builds' 3 GB), hash-checked where docker/torch-cpu.txt is there.
set -eu
cd "$(dirname "$0")/.."
venv=$1
python=${PYTHON:-python3}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
    || { echo "venv: $python is older than 3.11: set PYTHON to a newer one" >&2; exit 2; }
"$python" -m venv "$venv" \
    || { echo "venv: $python has no venv module: apt-get install python3-venv" >&2; exit 2; }

set -- --require-hashes -r docker/requirements.txt -r docker/dev.txt -r docker/monitor.txt \
    -r docker/export.txt -r docker/simulation.txt
[ -n "${TORCH_INDEX:-}" ] || set -- "$@" -r docker/torch.txt

echo "Installing the locked packages into $venv" >&2
pip="$venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps"
# uv does in seconds what takes pip minutes, but knows nothing of pip's configuration. Bytecode is compiled here once,
# as pip does, and not by each process of the first federation, or of every one with PYTHONDONTWRITEBYTECODE.
uv="$venv/bin/uv pip install --quiet --python $venv/bin/python --no-deps --compile-bytecode"
awk '/^[a-z]/ {uv = /^uv==/} uv' docker/requirements.txt >"$venv/uv.txt"
$pip --require-hashes -r "$venv/uv.txt"
if $uv "$@" 2>"$venv/uv.log"; then pip=$uv; else $pip "$@"; fi
if [ -n "${TORCH_INDEX:-}" ]; then
    if [ -f docker/torch-cpu.txt ]; then
        $pip --index-url "$TORCH_INDEX" --require-hashes -r docker/torch-cpu.txt
    else
        echo "torch comes without a locked hash: docker/torch-cpu.txt is missing (docker/lock.sh)" >&2
        # shellcheck disable=SC2046
        $pip --index-url "$TORCH_INDEX" $(awk '/^(torch|torchvision)==/ {print $1}' docker/torch.txt)
    fi
fi
$pip --no-build-isolation --editable .
