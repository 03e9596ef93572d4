#!/usr/bin/env bash
# Runs tests/engines on real engines, one after the other: builds or installs what is missing, starts the brain and the
# eyes on it, ends them afterwards.
#
#   tests/engines/run.sh [ENGINE...] [-- PYTEST-ARGUMENT...]
#
# ENGINE: llamacpp, transformers, vllm; without any those in the variable ENGINES, and without that all three.
# The last lines name every engine with what became of it.  Logs and the figures stay in .engines/logs/ENGINE.
#
# Fails when a build or an installation fails, a server does not start, a test fails or no test ran; and when an engine
# that was named has no build for this machine.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
[[ -x .venv/bin/pytest ]] || {
    echo "run.sh: no .venv/bin/pytest: run 'make test-engines', which makes .venv first" >&2
    exit 1
}

engines=()
while (($#)) && [[ $1 != -- ]]; do
    engines+=("$1")
    shift
done
shift $(($# > 0)) # the --
if ((${#engines[@]} == 0)); then
    read -r -a engines <<<"${ENGINES:-}"
fi
named=${#engines[@]}
((named)) || engines=(llamacpp transformers vllm)

provide() {
    case $1 in
    llamacpp) tests/engines/build_llama_server.sh ;;
    transformers | vllm) tests/engines/install.sh "$1" ;;
    *)
        echo "run.sh: no engine $1; there are llamacpp, transformers and vllm" >&2
        return 1
        ;;
    esac
}

report=()
ran=0 absent=0 failed=0
for engine in "${engines[@]}"; do
    code=0
    provide "$engine" || code=$?
    if ((code == 3 && named == 0)); then
        absent=$((absent + 1))
        report+=("$engine: NOT RUN: no build for this machine")
        continue
    elif ((code)); then
        failed=$((failed + 1))
        report+=("$engine: FAILED: could not be built or installed")
        continue
    fi
    mkdir -p ".engines/logs/$engine"
    rm -f ".engines/logs/$engine/figures.txt"
    output=.engines/logs/$engine/pytest.log
    .venv/bin/python -m tests.engines.servers "$engine" .venv/bin/pytest tests/engines -m engines "$@" 2>&1 |
        tee "$output" || code=$?
    last=$(grep -E '[0-9.]+s( \([0-9:]+\))? =*$' "$output" | tail -n 1 | tr -d '=' || true)
    if ((code)); then
        failed=$((failed + 1))
        report+=("$engine: FAILED:${last:- the servers did not start}")
    else
        ran=$((ran + 1))
        report+=("$engine:$last")
    fi
done

printf '\nengines: %d passed, %d failed, %d not run\n' "$ran" "$failed" "$absent"
printf '  %s\n' "${report[@]}"
((failed == 0 && ran > 0))
