#!/bin/sh
# Make Debian 13's packages available on Debian 12, from the machine's own archive: debian-release.sh
#
# Prints what apt-get install needs to take one from there; nothing on any other release. A pin keeps
# everything that is not asked for on the machine's own release.
set -eu
# shellcheck source=/dev/null
. /etc/os-release
[ "${VERSION_CODENAME:-}" = bookworm ] || exit 0
list=/etc/apt/sources.list.d/debian-13.sources
if [ -f /etc/apt/sources.list.d/debian.sources ]; then
    awk '/^URIs:/ && !uri {uri = $2} /^Signed-By:/ && !key {key = $2}
        END {print "Types: deb\nURIs: " uri "\nSuites: trixie\nComponents: main"; if (key) print "Signed-By: " key}' \
        /etc/apt/sources.list.d/debian.sources >"$list"
else
    awk '/^deb / {for (i = 2; i <= NF; i++) if ($i ~ /:\/\//) uri = uri ? uri : $i}
        END {print "Types: deb\nURIs: " uri "\nSuites: trixie\nComponents: main"}' /etc/apt/sources.list >"$list"
fi
printf 'Package: *\nPin: release n=trixie\nPin-Priority: 50\n' >/etc/apt/preferences.d/debian-13
echo "-t trixie"
