#!/usr/bin/env bash
# Changes the core (router/protocol/) in small ways, one at a time and in memory only, and says which changes no test
# notices.  Fails below 90 %.
#
#   tests/mutants/run.sh [FILE...] [--sample N] [--seed S] [--jobs J]
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
[[ -x .venv/bin/python ]] || {
    echo "run.sh: no .venv/bin/python: run 'make test-mutants', which makes .venv first" >&2
    exit 1
}

PYTHONHASHSEED=0 exec .venv/bin/python -m tests.mutants "$@"
