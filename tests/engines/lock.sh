#!/usr/bin/env bash
# Writes the lock file of an engine anew from what is installed in .engines/ENGINE (needs `uv`).  Like the lock files of
# the project it names versions and hashes and no registry, so that any mirror can serve them.
#
#   tests/engines/lock.sh transformers|vllm
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
engine=${1:?which engine: transformers or vllm}
lock=tests/engines/locks/$engine.lock
{
    echo "# Written by tests/engines/lock.sh: what was installed in .engines/$engine, by version and hash.  torch comes first, on its own."
    # torch is installed before and apart (install.sh says why); a `vllm` is only a name that install.sh writes.
    ".engines/$engine/bin/python" -m pip freeze | grep -v -E '^(torch|vllm)==' |
        uv pip compile --quiet --no-deps --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header -
} >"$lock.new"
mv "$lock.new" "$lock"
