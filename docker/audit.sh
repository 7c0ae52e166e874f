#!/bin/sh
# What the images and the virtual environment are made of, and what is known about it: audit.sh sbom | advisories
#   sbom        build/sbom.cdx.json: every locked package of the images with its hashes, in CycloneDX
#   advisories  the advisories that the package index knows of what is locked; fails where there is one, or no answer
# The tools live in an environment of their own, build/audit, from docker/audit.txt.
set -eu
cd "$(dirname "$0")/.."
tools=build/audit
if ! cmp -s docker/audit.txt "$tools/locked"; then
    rm -rf "$tools"
    mkdir -p build
    "${PYTHON:-python3}" -m venv "$tools"
    "$tools/bin/pip" install --quiet --quiet --disable-pip-version-check --no-deps --require-hashes -r docker/audit.txt
    cp docker/audit.txt "$tools/locked"
fi

case ${1:-} in
sbom)
    # uv builds the images and stays outside of them.
    cat docker/requirements.txt docker/torch.txt | awk '/^[a-z]/ {uv = /^uv==/} !uv' \
        | PYTHONWARNINGS=ignore "$tools/bin/cyclonedx-py" requirements --pyproject pyproject.toml --output-reproducible \
            --output-file build/sbom.cdx.json -
    echo build/sbom.cdx.json
    ;;
advisories)
    # --strict: a package that the index does not know of counts as not looked at.
    for lock in requirements torch dev monitor export simulation audit; do
        "$tools/bin/pip-audit" --strict --require-hashes --disable-pip --no-deps --progress-spinner off \
            --requirement "docker/$lock.txt"
    done
    ;;
*)
    echo "audit.sh sbom | advisories" >&2
    exit 2
    ;;
esac
