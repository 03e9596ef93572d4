#!/bin/sh
# Writes the lock files anew (needs `uv`; nothing else in the project does).  They name versions and
# hashes for every Python from 3.11 on, and no registry address, so that any mirror can serve them.
set -eu
cd "$(dirname "$0")/.."
compile() {
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
        --custom-compile-command requirements/compile.sh --override requirements/overrides.txt "$@"
}
compile pyproject.toml requirements/extra.in --extra ocr --extra redis -o requirements/run.lock
compile pyproject.toml requirements/extra.in --extra heic --extra ocr --extra otel --extra redis --group pyproject.toml:dev -o requirements/dev.lock
