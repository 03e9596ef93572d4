#!/bin/sh
# Writes the pins anew from the `.in` and `package.json` files (needs `uv` and `npm`; nothing else here needs `uv`).
# They name versions and hashes and no registry address, so that any mirror can serve them.  Where a client names packages
# for other machines that not every mirror has, `overrides` put one that is there in their place; none is installed.
set -eu
cd "$(dirname "$0")"
for wanted in *.in; do
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
        --no-header "$wanted" -o "${wanted%.in}.txt"
done
for wanted in */package.json; do
    (cd "$(dirname "$wanted")" && npm install --package-lock-only --ignore-scripts --no-audit --no-fund \
        --omit-lockfile-registry-resolved=true)
done
