#!/usr/bin/env bash
# Prints the path of a Python from which a virtual environment can be made, or one line that says what to do (exit 2).
# Arguments: the versions to look for, first choice first (without them: 3.13 3.12 3.11 3.10).
# $PYTHON, where it is set, is the only candidate.
set -u

[ $# -gt 0 ] || set -- 3.13 3.12 3.11 3.10

# Prints the interpreter behind $1 if it really starts and is of version $2: a pyenv shim exists for versions that are not
# enabled, and fails. Inside a virtual environment it names the Python below it, since `venv --clear` may delete the former.
# ensurepip is looked for because Debian ships a Python without it, which cannot make an environment with pip.
usable() {
  "$1" -c 'import ensurepip, os, sys, venv
version = "%d.%d" % sys.version_info[:2]
if version != sys.argv[1]: sys.exit(1)
print(sys.executable if sys.prefix == sys.base_prefix else os.path.join(sys.base_prefix, "bin", "python" + version))' "$2" 2>/dev/null
}

fail() {
  echo "$1" >&2
  exit 2
}

if [ -n "${PYTHON:-}" ]; then
  for version in "$@"; do usable "$PYTHON" "$version" && exit 0; done
  said=$("$PYTHON" -V 2>/dev/null) || said="nothing"
  fail "PYTHON=$PYTHON is not a Python of version $* with the venv module (it says: ${said%%$'\n'*}); unset it or name another one"
fi

for version in "$@"; do
  usable "python$version" "$version" && exit 0

  for candidate in "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/"$version"*/bin/python; do
    usable "$candidate" "$version" && exit 0
  done

  # From / and without VIRTUAL_ENV: uv answers with the environment it stands in, which may be the broken one to be repaired.
  candidate=$(unset VIRTUAL_ENV && cd / && uv python find "$version" 2>/dev/null) && usable "$candidate" "$version" && exit 0
done

fail "no Python of version $* with the venv module found: install one (pyenv install $1, uv python install $1 or apt install python$1-venv) or set PYTHON=/path/to/python$1"
