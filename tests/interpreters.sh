#!/usr/bin/env bash
# Lint, types, unit and conformance tests, and one picture, on each CPython from 3.11 on that is found here, but for
# the one that .venv has: `make test` has done that. Found on the PATH, and among pyenv's and uv's interpreters.
set -euo pipefail
cd "$(dirname "$0")/.."

version() { "$1" -c 'import platform, sys; print("%d.%d" % sys.version_info[:2] if platform.python_implementation() == "CPython" else "")' 2>/dev/null; }

find_python() { # 3.12 -> the first interpreter of that version that runs
  local candidate
  for candidate in "$(command -v "python$1" || true)" \
    "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1".*/bin/python "$HOME"/.local/share/uv/python/cpython-"$1".*/bin/python3; do
    if [ -x "$candidate" ] && [ "$(version "$candidate")" = "$1" ]; then
      echo "$candidate"
      return
    fi
  done
}

ours=$(version .venv/bin/python)
tried=0
for wanted in 3.11 3.12 3.13 3.14; do
  [ "$wanted" = "$ours" ] && continue
  python=$(find_python "$wanted")
  if [ -z "$python" ]; then
    echo "Python $wanted: not found here"
    continue
  fi
  echo "Python $wanted: $python"
  venv=.venv-$wanted
  [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
  "$venv/bin/python" -m pip install -qq --require-hashes -r requirements/dev.txt
  "$venv/bin/python" -m pip install -qq --no-deps --no-build-isolation --editable .
  "$venv/bin/ruff" check --quiet .
  "$venv/bin/mypy" --python-version "$wanted"
  "$venv/bin/python" -m pytest -n 3 --dist loadfile -m "not slow" tests/unit tests/conformance
  picture=$(mktemp -d)
  env -u UMRGEN_BASE_URL "$venv/bin/umrgen" generate "a lighthouse at dusk" -o "$picture/image.png"
  rm -r "$picture"
  tried=$((tried + 1))
done
echo "further interpreters tried: $tried"
