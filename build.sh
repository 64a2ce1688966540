#!/usr/bin/env bash
# Builds the image. Usage: ./build.sh [flags for the engine's build]
#
#   IMAGE             its name (survfuse:VERSION)
#   CONTAINER_ENGINE  docker or podman (docker if it is running, else podman)
#   BASE_IMAGE        a base image in place of the Dockerfile's
#   BUILD_FLAGS       further flags for the engine's build, split at spaces
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

engine=${CONTAINER_ENGINE:-$(docker info >/dev/null 2>&1 && echo docker || command -v podman)} || {
  echo "build.sh: neither a running docker nor podman was found; set CONTAINER_ENGINE" >&2
  exit 4
}
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' survfuse/__init__.py)
revision=$(git rev-parse HEAD 2>/dev/null || true)
[[ -z $revision || -z $(git status --porcelain 2>/dev/null) ]] || revision+=-modified

read -ra flags <<<"${BUILD_FLAGS:-}"
[[ -z ${BASE_IMAGE:-} ]] || flags+=(--build-arg "BASE_IMAGE=$BASE_IMAGE")
exec "$engine" build --platform linux/amd64 "${flags[@]}" --build-arg "VERSION=$version" \
  --build-arg "REVISION=$revision" --tag "${IMAGE:-survfuse:$version}" "$@" .
