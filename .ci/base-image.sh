#!/bin/sh
# Build the base image on a machine that reaches no registry: base-image.sh (as root, with debootstrap)
#
# Prints the image to build on: the one that .env names, where it is present or can be pulled. Otherwise debootstrap
# builds the same distribution from the machine's own, signed Debian archive. A digest names what a registry holds, so
# the image that is built here has the name without it.
set -eu
top=$(dirname "$0")/..
name=${BASE_IMAGE:-$(sed -n 's/^BASE_IMAGE=//p' "$top/.env")}
if sh "$top/docker/base-image.sh" 2>/dev/null; then
    echo "$name"
    exit 0
fi
name=${name%@sha256:*}
if docker image inspect "$name" >/dev/null 2>&1; then
    echo "$name"
    exit 0
fi
suite=${name#*:}
suite=${suite%-slim}

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
echo "$name"
