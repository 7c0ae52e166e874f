#!/bin/sh
# Does Compose accept every file, with every profile? check-compose.sh
set -eu
cd "$(dirname "$0")/.."
if ! docker compose version >/dev/null 2>&1; then
    echo "skipped: docker compose config (no Docker with Compose v2 here)"
    [ -z "${BOUQUET_REQUIRE_CONTAINERS:-}" ]
    exit
fi
for file in compose.yaml deploy/hosts/*.compose.yaml; do
    [ -f "$file" ] || continue
    example="${file%compose.yaml}env.example"
    [ -f "$example" ] || example=/dev/null
    [ "$file" != compose.yaml ] || example=.env
    for profile in gpu cpu "*"; do
        docker compose --file "$file" --env-file "$example" --profile "$profile" config --quiet
    done
done
