#!/usr/bin/env bash
# Installs real clients under .clients/ and tests the service with them.
#
#   tests/clients/run.sh [--quick | CLIENT...] [-- PYTEST-ARGUMENT...]
#
# Without names: all of them (tests/clients/roster.py); with --quick: those that install in seconds, which is what
# `make test` does.  What is installed is kept.  Fails when a client cannot be installed, when a test fails, and when a
# client was not tested.  The last lines name every client, also those that were not of this run.
set -euo pipefail

# Node has authorities of its own and does not know those that this machine trusts beside them, as behind a mirror.
authorities=/etc/ssl/certs/ca-certificates.crt
[[ -n ${NODE_EXTRA_CA_CERTS:-} || ! -r $authorities ]] || export NODE_EXTRA_CA_CERTS=$authorities

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
[[ -x .venv/bin/pytest ]] || {
    echo "run.sh: no .venv/bin/pytest: run 'make test-clients', which makes .venv first" >&2
    exit 1
}

roster=()
if [[ ${1-} == --quick ]]; then
    roster=(--quick)
    shift
fi
names=()
while (($#)) && [[ $1 != -- ]]; do
    names+=("$1")
    shift
done
(($#)) && shift
((${#names[@]})) || read -r -a names <<<"$(.venv/bin/python -m tests.clients.roster "${roster[@]}")"

installed=0
.venv/bin/python -m tests.clients.install "${names[@]}" || installed=$?
((installed == 2)) && exit 2

tested=0
CHIASM_TEST_CLIENTS="${names[*]}" .venv/bin/pytest tests/clients -n 2 --dist loadgroup "$@" || tested=$?

((installed == 0)) || echo "run.sh: some clients could not be installed, see above" >&2
((installed == 0 && tested == 0))
