#!/usr/bin/env bash
# Runs the image over every case as the platform does, under harder limits than the platform's, and compares the months
# with those expected. Usage: test/run.sh [IMAGE]; the default is build.sh's image.
#
#   INPUT      cases, one folder each (test/input)
#   MODEL      a bundle to mount at /opt/ml/model (none: the demonstration bundle in the image)
#   EXPECTED   CASE/likelihood-of-bladder-cancer-recurrence.json for each; nothing is compared where it is empty, as
#              it is by default with a bundle of your own (test/expected)
#   TOLERANCE  relative, between machines (0.001)
#   CONTAINER_ENGINE, RUN_FLAGS   as for export.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

engine=${CONTAINER_ENGINE:-$(docker info >/dev/null 2>&1 && echo docker || command -v podman)} || {
  echo "run.sh: neither a running docker nor podman was found; set CONTAINER_ENGINE" >&2
  exit 4
}
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' survfuse/__init__.py)
image=${1:-survfuse:$version}
input=$(cd "${INPUT:-test/input}" && pwd)
expected=${EXPECTED-$([[ -n ${MODEL:-} ]] || echo test/expected)}
tolerance=${TOLERANCE:-0.001}
ok=$([[ -n $expected ]] && echo as expected || echo ran, nothing to compare with)
number=likelihood-of-bladder-cancer-recurrence.json
read -ra flags <<<"${RUN_FLAGS:-}"
if command -v nvidia-smi >/dev/null && nvidia-smi --list-gpus >/dev/null 2>&1; then
  if [[ $(basename "$engine") == podman ]]; then flags+=(--device nvidia.com/gpu=all); else flags+=(--gpus all); fi
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
mkdir "$work/none"
model=$work/none
[[ -z ${MODEL:-} ]] || model=$(cd "$MODEL" && pwd)

# One job: no network, nothing writable but /output and an empty /tmp, no privilege, the platform's memory.
job() {
  "$engine" run --rm --platform linux/amd64 --network none --read-only --cap-drop ALL \
    --security-opt no-new-privileges --memory 15g --memory-swap 15g --shm-size 7g "${flags[@]}" \
    --volume "$1:/input:ro" --volume "$2/output:/output" --volume "$2/tmp:/tmp" --volume "$model:/opt/ml/model:ro" \
    "$image" >"$2/stdout" 2>"$2/stderr"
}

# What is wrong with a finished job, in words; nothing where all is well.
verdict() {
  local case=$1 code=$2 found=$3 want=$4
  if ((code)); then
    echo "exit code $code: $(tail -n 1 "$work/$case/stderr")"
  elif [[ -s $work/$case/stderr ]]; then
    echo "stderr: $(head -n 1 "$work/$case/stderr")"
  elif [[ $(ls -A "$work/$case/output") != "$number" ]]; then
    echo "output holds: $(ls -A "$work/$case/output" | tr '\n' ' ')"
  elif [[ ! $found =~ ^[0-9]+(\.[0-9]+)?(e[-+]?[0-9]+)?$ ]]; then
    echo "not a number: $found"
  elif [[ -n $expected ]]; then
    [[ -n $want ]] || { echo "no expected months" && return; }
    awk -v a="$found" -v b="$want" -v t="$tolerance" 'BEGIN {
      d = a > b ? a - b : b - a; if (d > t * b) printf "differs by %.2g, tolerance %g", d / b, t }'
  fi
}

printf '%-12s %12s %12s %8s %9s  %s\n' case months expected seconds 'peak MB' result
failures=0
count=0
for folder in "$input"/*/; do
  [[ -d $folder ]] || continue
  case=$(basename "$folder")
  mkdir -p "$work/$case/output" "$work/$case/tmp"
  chmod 777 "$work/$case/output" "$work/$case/tmp"
  started=$EPOCHREALTIME
  code=0
  job "${folder%/}" "$work/$case" || code=$?
  seconds=$(awk -v a="$started" -v b="$EPOCHREALTIME" 'BEGIN {printf "%.2f", b - a}')
  found=$(cat "$work/$case/output/$number" 2>/dev/null || true)
  want=$([[ -z $expected ]] || cat "$expected/$case/$number" 2>/dev/null || true)
  peak=$(sed -n 's/.*peak memory \([0-9,]*\) MB.*/\1/p' "$work/$case/stdout" | tr -d ,)
  problem=$(verdict "$case" "$code" "$found" "$want")
  printf '%-12s %12.3f %12s %8s %9s  %s\n' "$case" "${found:-nan}" "${want:+$(printf %.3f "$want")}" "$seconds" \
    "${peak:--}" "${problem:-$ok}"
  count=$((count + 1))
  if [[ -n $problem ]]; then
    failures=$((failures + 1))
    sed 's/^/    /' "$work/$case/stdout" "$work/$case/stderr"
  fi
done
((count)) || { echo "run.sh: $input holds no case" >&2 && exit 2; }
echo "$((count - failures)) passed, $failures failed"
((failures == 0))
