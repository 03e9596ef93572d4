#!/usr/bin/env bash
# Runs tests/engines against real llama-servers, which it builds when they are missing and always ends afterwards.
#
#   tests/engines/run.sh [PYTEST-ARGUMENT...]
#
# Fails when the build fails, when a server does not start, when a test fails, and when no test ran.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
[[ -x .venv/bin/pytest ]] || {
    echo "run.sh: no .venv/bin/pytest: run 'make test-engines', which makes .venv first" >&2
    exit 1
}

tests/engines/build_llama_server.sh
exec .venv/bin/python -m tests.engines.servers .venv/bin/pytest tests/engines -m engines "$@"
