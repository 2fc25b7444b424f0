#!/usr/bin/env bash
# Writes requirements/{build,py310,current,stardist}.txt, exact versions with hashes, from the .in files beside them.
# Versions that fit are kept; `tools/lock_requirements.sh --upgrade` takes the newest. Needs uv (pip install uv).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../requirements"

command -v uv >/dev/null || { echo "uv is not installed: pip install uv" >&2; exit 2; }

lock() {
  UV_CUSTOM_COMPILE_COMMAND="tools/lock_requirements.sh" \
    uv pip compile --quiet --no-config --generate-hashes --no-annotate --output-file "$@"
}

lock build.txt "${@}" --universal --python-version 3.10 build.in
lock py310.txt "${@}" --python-version 3.10 --python-platform x86_64-manylinux_2_28 --constraint build.txt py310.in
lock current.txt "${@}" --universal --python-version 3.11 --constraint build.txt current.in
lock stardist.txt "${@}" --universal --python-version 3.10 stardist.in
