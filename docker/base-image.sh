#!/bin/sh
# Pull the base image of both images unless it is here: base-image.sh
#
# BASE_IMAGE of the environment, or else of .env, names it. Exit status 2 where there is no way to it.
set -eu
name=${BASE_IMAGE:-$(sed -n 's/^BASE_IMAGE=//p' "$(dirname "$0")/../.env")}

docker image inspect "$name" >/dev/null 2>&1 && exit 0
echo "Pulling $name" >&2
docker pull --quiet "$name" >/dev/null 2>&1 && exit 0
echo "error: the base image $name cannot be pulled: set BASE_IMAGE in .env to one that can, or load it (docker load)" >&2
exit 2
