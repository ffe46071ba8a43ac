#!/usr/bin/env bash
# Everything that docs/gpu.md owes, in one go on a machine with an NVIDIA GPU:
#
#     docs/tools/gpu/all.sh [MINUTES] [FOLDER]        # 8 minutes, into gpu-results
#
# It installs what is missing, then runs, the most telling first: the GPU tests, single layers
# (crossover.py), the clock (clock.py), the table (table.py), a study with its report
# (hwbench bench). Every figure is kept when it is known; stopped at any second, the folder is
# readable and the same command goes on where it was. What is done has a file in FOLDER/done.
#
# DEVICE=cpu tries all of it with tiny sizes and without a GPU. STEPS="tests table" runs these alone.
# BENCH_ARGS="--set ..." goes to hwbench bench (no spaces inside), BATCH and TARGET likewise.
# WHEELS=folder installs from files, where there is no network. PYTHON=... is the interpreter.
set -uo pipefail
seconds=$(awk -v minutes="${1:-8}" 'BEGIN {printf "%d", 60 * minutes}')
results=$(realpath -m "${2:-gpu-results}")
cd "$(dirname "$0")/../../.."
device=${DEVICE:-cuda}
steps=${STEPS:-tests crossover clock table bench}
python=${PYTHON:-python3}
begun=$(date +%s)
mkdir -p "$results/done"
export PYTHONUNBUFFERED=1
models=${MODELS:-$results/models}

say() { echo "[$(($(date +%s) - begun)) s] $*" | tee -a "$results/progress.log"; }
left() { echo $((seconds - $(date +%s) + begun)); }
finished() { touch "$results/done/$1"; say "$1: done"; }

# run STEP SECONDS COMMAND...: within that time, with a log; a step that was done is not run again.
run() {
    local step=$1 limit=$2
    shift 2
    [[ " $steps " == *" ${step%%-*} "* ]] || return 0
    [[ -e $results/done/$step ]] && { say "$step: was done before"; return 0; }
    local most
    most=$(left)
    ((most < 10)) && { say "$step: no time was left"; return 0; }
    ((limit < most)) && most=$limit
    say "$step: begins, $most s at most"
    timeout --signal=INT --kill-after=10 "$most" "$@" >>"$results/$step.log" 2>&1
    local status=$?
    tail -n 3 "$results/$step.log"
    case $status in
        0) finished "$step" ;;
        124 | 137) say "$step: stopped by the clock" ;;
        *) say "$step: ended with $status, see $step.log" ;;
    esac
}

install() {
    if [[ -n ${WHEELS:-} ]]; then
        "$python" -m pip install -q --no-index --no-deps --no-compile --upgrade \
            --target "$results/site" "$WHEELS"/*.whl
        export PYTHONPATH=$results/site:$PWD${PYTHONPATH:+:$PYTHONPATH}
    elif ! "$python" -c 'import torch, hwbench.cli, pytest, triton' 2>/dev/null; then
        "$python" -m venv "$results/venv" && python=$results/venv/bin/python
        "$python" -m pip install -q -c constraints.txt -e ".[gpu,dev]"
        [[ $device == cuda ]] && "$python" -m pip install -q onnxruntime-gpu
    fi
    export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
}

describe() {
    [[ $device == cuda ]] && nvidia-smi && nvidia-smi -q -d POWER,CLOCK,TEMPERATURE
    "$python" - <<'PY'
import importlib.metadata as m, platform, torch
print("python", platform.python_version(), "torch", torch.__version__, "cuda", torch.version.cuda)
if torch.cuda.is_available():
    p = torch.cuda.get_device_properties(0)
    print(p, "L2", p.L2_cache_size, "cuSPARSELt", torch.backends.cusparselt.version())
for name in ("triton", "onnxruntime", "onnxruntime-gpu", "apache-tvm", "numpy", "onnx"):
    try: print(name, m.version(name))
    except m.PackageNotFoundError: print(name, "not installed")
PY
}

small=()
[[ $device == cpu ]] && small=(--device cpu --small)
size=()
if [[ $device == cpu ]]; then
    # A copy of this machine's profile with torch on it, and a network that a CPU runs in no time.
    mkdir -p "$results/study/targets"
    sed '/^backends:/,/^meters:/{/^meters:/!d}' targets/local-cpu.yaml >"$results/study/targets/tcpu.yaml"
    printf 'backends:\n  torch: {}\n' >>"$results/study/targets/tcpu.yaml"
    size=(--set workload.width=64 --set workload.depth=2 --set batch=4
        --set "backends={torch: [{precision: fp32}, {precision: bf16}, {precision: int8}]}")
fi

install
describe >>"$results/machine.txt" 2>&1
tail -n 8 "$results/machine.txt"
cores=$(nproc)
if [[ " $steps " == *" table "* || " $steps " == *" clock "* ]]; then
    # On the host's other cores while the tests run. Whoever needs a model that is being made waits.
    "$python" docs/tools/gpu/table.py "${small[@]}" --models "$models" --out "$results" \
        --prepare $((cores > 8 ? 7 : 2)) >"$results/prepare.log" 2>&1 &
    trap 'kill %1 2>/dev/null' EXIT
fi
if [[ $device == cuda ]]; then
    run tests "${TESTS_SECONDS:-200}" "$python" -m pytest -q -rs -p no:benchmark -n 6 --durations=8 -p no:cacheprovider \
        tests/integration/test_on_a_gpu.py
else
    run tests 200 "$python" -m pytest -q -rs -p no:cacheprovider tests/unit/test_torch_backend.py \
        tests/integration/test_on_a_gpu.py
fi
run crossover 100 "$python" docs/tools/gpu/crossover.py "${small[@]}" --minutes "${CROSSOVER:-1.5}" --out "$results" \
    $([[ $device == cpu ]] && echo --dtype float32)
[[ $device == cuda ]] && run clock 40 "$python" docs/tools/gpu/clock.py --batch 256 --precision bf16 \
    --models "$models" --out "$results"
# Where a study follows, it gets two fifths of what is left.
share=100
[[ " $steps " == *" bench "* ]] && share=60
table=$(($(left) * share / 100))
run table $((table + 20)) "$python" docs/tools/gpu/table.py "${small[@]}" --models "$models" \
    --out "$results" --minutes "$(awk "BEGIN {print $table / 60}")"
folder=$results/study
mkdir -p "$folder"
cp -r recipes "$folder/"
[[ $device == cuda ]] && cp -r targets "$folder/"
at=$([[ $device == cpu ]] && echo tcpu || echo "${TARGET:-cuda}")
# A third of what is left goes into preparing, as long as nothing is known of this machine.
measuring=$(($(left) * 2 / 3))
read -ra more <<<"${BENCH_ARGS:-}"
run bench 600 env -C "$folder" "$python" -m hwbench bench --recipe gpu-mlp --target "$at" \
    --set "batch=${BATCH:-256}" "${size[@]}" "${more[@]}" --max-time "$((measuring > 30 ? measuring : 30))"
[[ -e $folder/reports/latest ]] && cp "$folder"/reports/latest/decision.md "$results/" 2>/dev/null
say "ends: $(ls "$results/done" | tr '\n' ' ')"
