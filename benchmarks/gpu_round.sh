#!/bin/sh
# The round on a machine with a GPU, which needs no network: benchmarks/gpu_round.sh [STEP...], or all steps. None takes more than
# LIMIT seconds; one that is cut off leaves what it has measured, and the next goes on. Results: $RESULTS/STEP/, default
# benchmarks/results/<gpu>/. Of a machine that a step runs on anew, `install` comes first, and `warm` before what it warms.
#
#   before, where there is a network: python -m benchmarks.peers fetch
#   where only what is below the repository travels: build/peers is that, and build/shared a copy of the golden files
set -u
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3} LIMIT=${LIMIT:-570}
GPU=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1 | tr " A-Z" "-a-z")
RESULTS=${RESULTS:-benchmarks/results/$GPU}
WORKERS=$(($(nproc) > 12 ? 12 : $(nproc)))
# What is compiled once stays, in a folder that git ignores.
export TRITON_CACHE_DIR=$PWD/build/triton TORCHINDUCTOR_CACHE_DIR=$PWD/build/inductor PYTHONUNBUFFERED=1
[ ! -d build/shared ] || export LIFTER_SHARED=$PWD/build/shared
OPS=$(ls benchmarks/kernels | sed -n 's/^\([a-z].*\)\.py$/\1/p')
SCANS="^selective_,^skeleton_scan,^causal_conv1d"
mkdir -p "$RESULTS"
failed=

bench() { # name of the step, then arguments
    step=$1 && shift
    timeout "$LIMIT" "$PYTHON" -m benchmarks "$@" --device cuda --out "$RESULTS/$step"
}

tests() { # name of the step, then arguments. Interrupted at the limit: what failed until then is told
    step=$1 && shift
    timeout --signal INT --kill-after 15 "$LIMIT" "$PYTHON" -m pytest -q -m gpu -n "$WORKERS" "$@" >"$RESULTS/$step.log" 2>&1
    status=$?
    tail -n 40 "$RESULTS/$step.log"
    return $status
}

once() { # PART: calls every case of its standard input (patterns) once, so that what it compiles is there; many at a time
    timeout "$LIMIT" xargs -P "$WORKERS" -I{} "$PYTHON" -m benchmarks "$1" --device cuda --seconds 0 --json "$RESULTS/warm-$1.json" --only {} \
        >"$RESULTS/warm-$1.log" 2>&1 || true # what fails here fails again where it counts
}

run() {
    case $1 in
    install) "$PYTHON" -m pip install --no-build-isolation --no-deps --no-index -e . ;;
    peers) timeout "$LIMIT" "$PYTHON" -m benchmarks.peers build ;;
    tests-scans) tests "$1" tests/kernels/test_s*.py ;;
    tests-attention) tests "$1" tests/kernels/test_[amr]*.py ;;
    tests-ops) tests "$1" tests/kernels/test_[!amrs]*.py ;;
    tests-models) tests "$1" tests --ignore tests/kernels ;;
    memcheck) # of Triton's kernels; there are no CUDA C++ ones, for which the round would have to run it
        PYTORCH_NO_CUDA_MEMORY_CACHING=1 timeout "$LIMIT" compute-sanitizer --error-exitcode 9 \
            "$PYTHON" -m benchmarks kernels --quick --device cuda --seconds 0 --json "$RESULTS/memcheck.json" --only "[TLBN]=(27|17|1) "
        ;;
    warm) for op in $OPS; do echo "^$op "; done | once kernels ;;
    warm-zoo) "$PYTHON" -m benchmarks zoo --device cuda --list | sed -n 's/^\(zoo .* T=243 batch 1\)$/^\1$/p' | once zoo ;;
    attention) bench "$1" kernels --seconds 0.05 --only "^axial_attention" ;;
    scans) bench "$1" kernels --seconds 0.05 --only "$SCANS" ;;
    ops) bench "$1" kernels --seconds 0.05 --only "^(?!axial_attention|selective_|skeleton_scan|causal_conv1d)" ;;
    zoo) bench "$1" zoo --seconds 0.1 --only "batch (1|8)$" ;;
    zoo-64) bench "$1" zoo --seconds 0.1 --only "batch 64$" ;;
    models) bench "$1" models diffusion memory --seconds 0.3 ;;
    summary) "$PYTHON" -m benchmarks.summary "$RESULTS" ;;
    *) echo "gpu_round.sh: no step $1" >&2 && return 2 ;;
    esac
}

[ $# -gt 0 ] || set -- install peers tests-scans tests-attention tests-ops tests-models warm attention scans ops warm-zoo zoo zoo-64 models summary
for step; do
    echo "== $step"
    start=$(date +%s)
    run "$step" || failed="$failed $step"
    echo "== $step: $(($(date +%s) - start)) s"
done
[ -z "$failed" ] || { echo "failed or cut off:$failed" >&2 && exit 1; }
