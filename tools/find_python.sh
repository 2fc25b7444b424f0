#!/usr/bin/env bash
# Prints the path of a Python 3.10 from which a virtual environment can be made, or one line that says what to do (exit 2).
# $PYTHON, where it is set, is the only candidate.
set -u

# Prints the interpreter behind $1 if it is a 3.10 that really starts: a pyenv shim exists for versions that are not
# enabled, and fails. Inside a virtual environment it names the Python below it, since `venv --clear` may delete the former.
# ensurepip is looked for because Debian ships a Python without it, which cannot make an environment with pip.
python_3_10() {
  "$1" -c 'import ensurepip, os, sys, venv
if sys.version_info[:2] != (3, 10): sys.exit(1)
print(sys.executable if sys.prefix == sys.base_prefix else os.path.join(sys.base_prefix, "bin", "python3.10"))' 2>/dev/null
}

fail() {
  echo "$1" >&2
  exit 2
}

if [ -n "${PYTHON:-}" ]; then
  python_3_10 "$PYTHON" && exit 0
  version=$("$PYTHON" -V 2>/dev/null) || version="nothing"
  fail "PYTHON=$PYTHON is not a Python 3.10 with the venv module (it says: ${version%%$'\n'*}); unset it or name another one"
fi

python_3_10 python3.10 && exit 0

for candidate in "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/3.10*/bin/python; do
  python_3_10 "$candidate" && exit 0
done

# From / and without VIRTUAL_ENV: uv answers with the environment it stands in, which may be the broken one to be repaired.
candidate=$(unset VIRTUAL_ENV && cd / && uv python find 3.10 2>/dev/null) && python_3_10 "$candidate" && exit 0

fail "no Python 3.10 with the venv module found: install one (pyenv install 3.10, uv python install 3.10 or apt install python3.10-venv) or set PYTHON=/path/to/python3.10"
