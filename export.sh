#!/usr/bin/env bash
# Writes what is uploaded to the platform: the image and the bundle, each checked first.
#
#   ./export.sh          image and bundle
#   ./export.sh image    only the image, if only code changed
#   ./export.sh model    only the bundle, if only weights changed
#
#   MODEL             the bundle (model/)
#   EXPORT            where the files go (build/export)
#   IMAGE             the image's name (survfuse-export:VERSION); it never falls back to demonstration weights
#   CONTAINER_ENGINE, BASE_IMAGE, BUILD_FLAGS   as for build.sh
#   RUN_FLAGS         further flags for the engine's run, split at spaces
#
# Files appear under their names whole, and only once all of them are made and checked; checksums come last.
set -euo pipefail
unset CDPATH
for place in MODEL EXPORT; do # relative to where the caller is
  [[ -z ${!place:-} ]] || printf -v "$place" %s "$(realpath --canonicalize-missing -- "${!place}")"
done
cd "$(dirname "${BASH_SOURCE[0]}")"

fail() {
  echo "export.sh: $1" >&2
  exit "${2:-2}"
}

step() {
  echo "export.sh: $1"
}

what=${1:-all}
[[ $what =~ ^(all|image|model)$ && $# -le 1 ]] || fail "expected image, model or nothing, found: $*"
engine=${CONTAINER_ENGINE:-$(docker info >/dev/null 2>&1 && echo docker || command -v podman)} ||
  fail "neither a running docker nor podman was found; set CONTAINER_ENGINE" 4
model=${MODEL:-model}
export_to=${EXPORT:-build/export}
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' survfuse/__init__.py)
export IMAGE=${IMAGE:-survfuse-export:$version}
name=survfuse-$version-$(date -u +%Y%m%d)
compress=$(command -v pigz || command -v gzip) || fail "neither pigz nor gzip was found" 4
read -ra run_flags <<<"${RUN_FLAGS:-}"

mkdir -p "$export_to"
find "$export_to" -maxdepth 1 -name '.part.??????' -mtime +0 -exec rm -rf {} + # of an export that was killed
part=$(mktemp -d "$(realpath "$export_to")/.part.XXXXXX")
trap 'rm -rf "$part"' EXIT
trap 'exit 143' TERM
trap 'exit 130' INT HUP

# What is not the bundle's: the folder's own README, and what file managers leave behind.
pack_model() {
  [[ -f $model/manifest.json ]] || fail "$model holds no bundle (no manifest.json); see docs/for-teams.md" 3
  tar --create --directory "$model" --exclude ./README.md --exclude ./.gitkeep --exclude ./.gitignore \
    --exclude .DS_Store --sort name --format posix --pax-option delete=atime,delete=ctime --owner 0 --group 0 \
    --numeric-owner --mode u=rwX,go=rX . | "$compress" -n >"$part/$name-model.tar.gz"
}

build_image() {
  local created image
  step "building $IMAGE"
  created=$(date -u +%Y-%m-%dT%H:%M:%S.%NZ)
  ./build.sh --build-arg SURVFUSE_REQUIRE_MODEL=1 --label "org.opencontainers.image.created=$created"
  # An engine may build and load nothing (BUILD_FLAGS, another builder): an earlier image would then go out. And the
  # one property of an image that a wrong cache or another Dockerfile must never take away.
  image=$("$engine" image inspect --format '{{json .Config.Labels}} {{json .Config.Env}}' "$IMAGE") ||
    fail "$engine cannot show $IMAGE" 4
  [[ $image == *"\"$created\""* ]] || fail "$IMAGE is an earlier image: nothing was built" 4
  [[ $image == *'"SURVFUSE_REQUIRE_MODEL=1"'* ]] ||
    fail "$IMAGE would fall back to demonstration weights: SURVFUSE_REQUIRE_MODEL=1 is not in it" 4
}

# The very archive is unpacked and verified, by the image's own code and user, under the rule that the platform will
# apply: a demonstration bundle is refused.
verify_model() {
  local code=0
  step "verifying $model"
  mkdir "$part/model"
  tar --extract --gzip --directory "$part/model" --file "$part/$name-model.tar.gz" --preserve-permissions --no-same-owner
  chmod 755 "$part" "$part/model"
  "$engine" run --rm --platform linux/amd64 --network none "${run_flags[@]}" \
    --volume "$part/model:/opt/ml/model:ro" --entrypoint /opt/venv/bin/python "$IMAGE" \
    -m survfuse verify /opt/ml/model || code=$?
  ((code < 125)) || fail "$engine could not run $IMAGE: exit code $code" 4
  ((code == 0)) || fail "$model does not pass verify" 3
  rm -rf "$part/model"
}

save_image() {
  step "saving and compressing $IMAGE: minutes"
  "$engine" save "$IMAGE" | "$compress" -n >"$part/$name-image.tar.gz"
  for file in sbom.cdx.json licences.txt; do
    "$engine" run --rm --network none "${run_flags[@]}" --entrypoint /bin/cat "$IMAGE" "/opt/inventory/$file" \
      >"$part/$name-$file"
  done
}

[[ $what == image ]] || pack_model
build_image
[[ $what == image ]] || verify_model
[[ $what == model ]] || save_image

cd "$part"
[[ $what == model ]] || sha256sum -- "$name"-{image.tar.gz,sbom.cdx.json,licences.txt} >.image.sha256
[[ $what == image ]] || sha256sum -- "$name-model.tar.gz" >.model.sha256
step "$(realpath ..)"
stat --format '%12s %n' -- *
mv -f -- * ../
for checksums in .*.sha256; do mv -f "$checksums" "../$name-${checksums#.}"; done
