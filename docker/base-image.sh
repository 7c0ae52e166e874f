#!/bin/sh
# Have the base image at hand: base-image.sh [NAME], by default BASE_IMAGE of the environment or of .env
#
# Present: nothing to do. Else it is pulled. Where no registry can be reached, debootstrap builds the same
# distribution from the machine's own Debian archive and gives it that name.
set -eu
name=${1:-${BASE_IMAGE:-}}
[ -n "$name" ] || name=$(sed -n 's/^BASE_IMAGE=//p' "$(dirname "$0")/../.env")
suite=${name#*:}
suite=${suite%-slim}

docker image inspect "$name" >/dev/null 2>&1 && exit 0
echo "Pulling $name" >&2
docker pull --quiet "$name" >/dev/null 2>&1 && exit 0

case $name in
debian:*) ;;
*) echo "base-image: $name cannot be pulled and only debian images can be built here: set BASE_IMAGE in .env" >&2; exit 2 ;;
esac
if [ "$(id -u)" != 0 ] || ! command -v debootstrap >/dev/null; then
    echo "base-image: $name cannot be pulled; run this as root with debootstrap installed to build it" >&2
    exit 2
fi

echo "No registry in reach: building $name with debootstrap" >&2
sources=/etc/apt/sources.list.d/debian.sources
archive=$(awk '/^URIs:/ {print $2; exit}' "$sources" 2>/dev/null || true)
rootfs=$(mktemp -d)
trap 'rm -rf "$rootfs"' EXIT
# Without an address debootstrap takes the distribution's default.
debootstrap --variant=minbase "$suite" "$rootfs" ${archive:+"$archive"} >"$rootfs.log" 2>&1 \
    || { tail -5 "$rootfs.log" >&2; echo "base-image: debootstrap failed, see $rootfs.log" >&2; exit 1; }
rm -rf "$rootfs.log" "$rootfs"/var/cache/apt/archives/*.deb "$rootfs"/var/lib/apt/lists/* "$rootfs"/var/log/*.log \
    "$rootfs"/usr/share/doc/* "$rootfs"/usr/share/man/* "$rootfs"/usr/share/locale/*
tar -C "$rootfs" -c . | docker import - "$name" >/dev/null
