#!/usr/bin/env bash
# Runs the image on every case as the platform does, under stricter limits than the platform's, and compares the months
# with those expected. Usage: test/run.sh [IMAGE]; the default is build.sh's image.
#
#   INPUT      cases, one folder each (test/input)
#   MODEL      a bundle to mount at /opt/ml/model (none: the demonstration bundle in the image)
#   EXPECTED   CASE/likelihood-of-bladder-cancer-recurrence.json for each; nothing is compared if it is empty, as
#              it is by default with a bundle or cases of your own (test/expected)
#   TOLERANCE  relative, between machines (0.001)
#   CONTAINER_ENGINE, RUN_FLAGS   as for export.sh; if the engine cannot provide a driver's GPU, set
#              RUN_FLAGS="--env SURVFUSE_DEVICE=cpu", else each job's warning about it counts as a failure
set -euo pipefail
export LC_ALL=C # numbers with a point
unset CDPATH
for place in INPUT MODEL EXPECTED; do # relative to where the caller is
  [[ -z ${!place:-} ]] || printf -v "$place" %s "$(realpath --canonicalize-missing -- "${!place}")"
done
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
  echo "run.sh: $1" >&2
  exit "$2"
}

engine=${CONTAINER_ENGINE:-$(docker info >/dev/null 2>&1 && echo docker || command -v podman)} ||
  fail "neither a running docker nor podman was found; set CONTAINER_ENGINE" 4
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' survfuse/__init__.py)
image=${1:-survfuse:$version}
expected=${EXPECTED-$([[ -n ${MODEL:-}${INPUT:-} ]] || realpath test/expected)}
input=${INPUT:-$(realpath test/input)}
tolerance=${TOLERANCE:-0.001}
ok=$([[ -n $expected ]] && echo as expected || echo ran, nothing to compare with)
number=likelihood-of-bladder-cancer-recurrence.json
numeric='^(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?$' # JSON's, non-negative
[[ $tolerance =~ ^(0|[1-9])(\.[0-9]+)?(e-[0-9]+)?$ ]] || fail "TOLERANCE: expected a number below 10, found $tolerance" 2
[[ -z ${MODEL:-} || -d $MODEL ]] || fail "MODEL: no such folder: $MODEL" 2

read -ra flags <<<"${RUN_FLAGS:-}"
gpu=
if command -v nvidia-smi >/dev/null && nvidia-smi --list-gpus >/dev/null 2>&1; then gpu=all; fi
if [[ $(basename "$engine") == podman* ]]; then
  flags+=(--read-only-tmpfs=false ${gpu:+--device nvidia.com/gpu=all}) # else it makes /run and /var/tmp writable
else
  flags+=(${gpu:+--gpus all})
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/.no-model"
chmod 755 "$work" "$work/.no-model"
model=${MODEL:-$work/.no-model}

# One job: no network, nothing writable but /output and an empty /tmp, no privilege, the platform's memory.
job() {
  "$engine" run --rm --platform linux/amd64 --network none --read-only --cap-drop ALL \
    --security-opt no-new-privileges --memory 15g --memory-swap 15g --shm-size 7g "${flags[@]}" \
    --volume "$1:/input:ro" --volume "$2/output:/output" --volume "$2/tmp:/tmp" --volume "$model:/opt/ml/model:ro" \
    "$image" >"$2/stdout" 2>"$2/stderr"
}

# What is wrong with a finished job; nothing if all is well.
verdict() {
  local case=$1 code=$2 found=$3 want=$4
  if ((code)); then
    echo "exit code $code: $(tail -n 1 "$work/$case/stderr")"
  elif [[ -s $work/$case/stderr ]]; then
    echo "stderr: $(head -n 1 "$work/$case/stderr")"
  elif [[ $(ls -A "$work/$case/output") != "$number" ]]; then
    echo "output holds: $(ls -A "$work/$case/output" | tr '\n' ' ')"
  elif [[ ! $found =~ $numeric ]]; then
    echo "not a number of months: ${found:0:40}"
  elif [[ -n $expected && ! $want =~ $numeric ]]; then
    echo "no expected number of months: ${want:0:40}"
  else
    awk -v a="$found" -v b="${want:-$found}" -v t="$tolerance" 'BEGIN {
      d = a > b ? a - b : b - a
      if (!(d <= t * b && a < 1e300 && b < 1e300)) printf "differs by %.2g, tolerance %g", b ? d / b : d, t }'
  fi
}

# A number to three places, anything else as it is, shortened.
shown() {
  if [[ $1 =~ $numeric ]]; then printf %.3f "$1"; else echo "${1:0:12}"; fi
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
  # Not the job's: docker says it of hosts that do not count swap.
  sed -i '/^WARNING: Your kernel does not support swap limit/d' "$work/$case/stderr"
  found=$(cat "$work/$case/output/$number" 2>/dev/null || true)
  want=$([[ -z $expected ]] || cat "$expected/$case/$number" 2>/dev/null || true)
  peak=$(sed -n 's/.*peak memory \([0-9,]*\) MB.*/\1/p' "$work/$case/stdout" | tr -d ,)
  problem=$(verdict "$case" "$code" "$found" "$want")
  printf '%-12s %12s %12s %8s %9s  %s\n' "$case" "$(shown "$found")" "$(shown "$want")" "$seconds" "${peak:--}" \
    "${problem:-$ok}"
  count=$((count + 1))
  if [[ -n $problem ]]; then
    failures=$((failures + 1))
    sed 's/^/    /' "$work/$case/stdout" "$work/$case/stderr"
  fi
done
((count)) || fail "$input holds no case" 2
for folder in ${expected:+"$expected"/*/}; do
  case=$(basename "$folder")
  [[ -d $input/$case || ! -d $folder ]] && continue
  printf '%-12s %54s\n' "$case" "expected, but $input has no such case"
  count=$((count + 1)) failures=$((failures + 1))
done
echo "$((count - failures)) passed, $failures failed"
((failures == 0))
