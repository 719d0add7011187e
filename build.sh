#!/bin/sh
# Build the Lambda layer and function zips, test them, publish the layer and roll it out.
#
# Usage: ./build.sh [-n] [-o DIR] [--bytecode LIST]  build the layer and the sample function
#        ./build.sh function FOLDER [-n] [-o DIR]    build a function, named after the folder
#        ./build.sh layer --python VERSION --arch x86_64|arm64 [-n] [-o DIR] [--interpreter FILE|DIR|URL]
#                 [--sha256 HASH] [--target RUNTIME] build the layer that contains Python, for provided.*
#        ./build.sh pin [-n] [--versions FILE]       update the Pythons for it in layer-manifest.json
#        ./build.sh release VERSION [-n] [-o DIR]    build all zips of a version, with SBOMs and provenance
#        ./build.sh verify-build ZIP [OPTIONS]       build a released zip again, and compare the two
#        ./build.sh arn --region R [--variant NAME] [--account ID]
#                                                    print the ARNs of the published layer versions
#        ./build.sh layers-page                      write docs/layers.md from layer-manifest.json
#        ./build.sh test [--long] [PYTEST ARGUMENTS] run the tests; --long adds those that take
#                                                    minutes; the first run creates .venv
#        ./build.sh mutate MODULE [OPTIONS]          change a module of the layer, and find the changes that
#                                                    no test notices
#        ./build.sh bench [OPTIONS]                  run the benchmark; see ./build.sh bench --help
#        ./build.sh -h | --help                      print this text
#        ./build.sh --version                        print the version of the layer
#
#        ./build.sh publish [OPTIONS]                publish the layer, once in each region
#        ./build.sh verify [OPTIONS]                 compare the published versions with the manifest
#        ./build.sh report [OPTIONS]                 list functions and their layer versions
#        ./build.sh rollout [FUNCTION...] [OPTIONS]  update functions to another layer version
#        ./build.sh attach [FUNCTION...] [OPTIONS]   add the layer to functions
#        ./build.sh detach [FUNCTION...] [OPTIONS]   remove the layer from functions
#        ./build.sh rollback JOURNAL [OPTIONS]       undo a roll-out
#        ./build.sh status JOURNAL [OPTIONS]         show how far a roll-out came
#        ./build.sh prune --keep N [OPTIONS]         delete layer versions that nothing uses
#        ./build.sh doctor ZIP|FUNCTION [OPTIONS]    find what prevents streaming, and how to fix it
#                                                    (each has a --help; the first that calls AWS
#                                                    installs boto3 into .venv-fleet)
#
#   -n, --dry-run     show what would be built, write nothing
#   -o, --output DIR  write to DIR (default: dist beside build.sh)
#   --bytecode LIST   compile the layer for these Python versions, such as 3.12,3.13, or none
#                     (default: every supported one found on PATH or in pyenv); without its
#                     bytecode, a version compiles the layer at every cold start
#   --interpreter …   the CPython to bundle (default: the python-build-standalone release pinned
#                     in layer-manifest.json): an archive or a folder in its layout
#   --sha256 HASH     the hash that the archive must have
#   --target RUNTIME  the runtime on which it must run: provided.al2023 (default) or provided.al2
#   --versions FILE   the versions.json of pbs-installer (default: pip fetches the newest)
#
# Needs Python 3.11 or later on PATH. The same sources and the same Pythons give the same bytes
# everywhere: DIR/INTERPRETERS lists the Pythons, DIR/SHA256SUMS all zips, for sha256sum -c.
# Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted; for test, that of pytest.
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
    # Run it: a version manager keeps shims for versions that are not installed.
    if "$name" -S -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
      command -v "$name"
      return
    fi
  done
  die "Python 3.11 or later is needed and was not found on PATH (tried python3, python3.11 to python3.14)"
}

# Run a command line of tools/ in the caller's folder, because relative paths refer to it. -P and -S: no module there or
# in site-packages can shadow ours. -X utf8: file names do not depend on the locale. A file and not -m, which runs code
# that prints a traceback after Ctrl-C, before that of the file.
run_tool() { # FOLDER IN tools/, ARGUMENTS...
  python=$(find_python)
  tool=$root/tools/$1/__main__.py
  shift
  export PYTHONPATH="$root"
  exec "$python" -P -S -X utf8 "$tool" "$@"
}

# As run_tool, without packages. The status is 3 if the command needs one that is not installed; it has then done nothing.
try_tool() {
  (
    export STATUS_WITHOUT_PACKAGES=3
    run_tool "$@"
  )
}

# There are two kinds of virtual environments. `test` clears .venv when a requirement changes, and a roll-out can run for
# an hour in the same checkout: what it imports later must still be there. So the commands for AWS have environments of
# their own, with boto3 alone. One is never cleared: another version of boto3 or Python gets another folder.

venv_is_ready() { # FOLDER MODULES; needs the stamp on stdin
  [ "$(cat)" = "$(cat "$1/stamp" 2>/dev/null)" ] && "$1/bin/python" -c "import $2" 2>/dev/null
}

new_venv() { # FOLDER CONTENT NAME
  [ ! -L "$1" ] || die "$root/$3 is a symbolic link, and the folder behind it would be cleared: remove the link"
  mkdir -p "$1" 2>/dev/null && [ -w "$1" ] ||
    die "cannot write to $root/$3: copy the checkout to a folder that you can write"
  printf 'build.sh: installing %s into %s (once)\n' "$2" "$3" >&2
  "$python" -m venv --clear "$1" >/dev/null 2>&1 ||
    die "$python could not create $3: remove $3, or install the venv module (Debian: apt install python3-venv)"
}

pip_install() { # FOLDER CONTENT LOG ARGUMENTS...
  venv=$1 content=$2 log=$3
  shift 3
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@" >"$log" 2>&1 ||
    die "pip could not install $content, see $log (is a package index reachable?)"
}

# What .venv depends on: its path, because a moved one is broken, the Python, and the requirements.
test_stamp() {
  printf '%s\n' "$root/.venv"
  "$python" --version
  cat tests/requirements.txt tests/requirements-no-deps.txt
}

install_test_requirements() {
  pip_install .venv "the test requirements" .venv/pip.log -r tests/requirements.txt
  case $(uname -s) in # the emulator among them is a Linux program; nothing imports the package
    Linux) pip_install .venv "the test requirements" .venv/pip.log --no-compile --no-deps -r tests/requirements-no-deps.txt ;;
  esac
  test_stamp >.venv/stamp # last: an incomplete .venv has no stamp, and is created again
}

# What the tests use besides .venv/bin is below .venv too. Each program takes as long as the test requirements, so they
# run at the same time. Each prints which tests will be skipped, and why.
start_preparation() {
  preparation=
  # A signal that ends this script does not reach the programs: a shell starts them with SIGINT ignored.
  trap 'kill $preparation 2>/dev/null || :' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  for words in debian_stand_ins python_stand_ins "package_environments agents" "package_environments frameworks" \
    "package_environments sbom"; do
    # shellcheck disable=SC2086 # a module and its argument
    PYTHONPATH=tests .venv/bin/python -m support.$words &
    preparation="$preparation $!"
  done
}

finish_preparation() {
  for job in $preparation; do
    wait "$job"
  done
  trap - EXIT INT TERM
}

# The environment for the commands for AWS. It is created under another name and renamed when it is complete, because two
# commands can start at the same time.
make_fleet_venv() {
  trap 'rm -rf "$fleet_venv.$$"' EXIT
  trap 'exit 130' INT # dash runs the trap above only after an exit
  trap 'exit 143' TERM
  new_venv "$fleet_venv.$$" boto3 .venv-fleet
  pip_install "$fleet_venv.$$" boto3 "$root/.venv-fleet/pip.log" "$boto3"
  rm -rf "$fleet_venv"
  mv "$fleet_venv.$$" "$fleet_venv"
  trap - EXIT INT TERM
}

reads_standard_input() {
  for word; do
    case $word in - | @/dev/*) return 0 ;; esac
  done
  return 1
}

# -P: a module in the caller's folder cannot shadow boto3.
run_fleet() {
  python=$(find_python)
  boto3=$(sed -n '/^boto3==/p' "$root/tests/requirements.txt")
  version=$("$python" --version)
  fleet_venv=$root/.venv-fleet/python-${version#Python }-boto3-${boto3#boto3==}
  if ! "$fleet_venv/bin/python" -c 'import boto3' 2>/dev/null; then
    # Help, wrong usage, and what reads local files only, such as the doctor of a zip, need no boto3 and no network.
    status=3
    reads_standard_input "$@" || { status=0 && try_tool fleet "$@" || status=$?; }
    [ "$status" -eq 3 ] || exit "$status"
    make_fleet_venv
  fi
  export PYTHONPATH="$root"
  exec "$fleet_venv/bin/python" -P -X utf8 "$root/tools/fleet/__main__.py" "$@"
}

run_mutations() {
  cd -- "$root"
  python=$(find_python)
  if ! test_stamp | venv_is_ready .venv 'boto3, moto, pytest'; then
    status=0 # of help or wrong usage
    try_tool mutation "$@" || status=$?
    [ "$status" -eq 3 ] || exit "$status"
    new_venv .venv "the test requirements" .venv
    install_test_requirements
  fi
  export PYTHONPATH="$root"
  exec .venv/bin/python -P -X utf8 "$root/tools/mutation/__main__.py" "$@"
}

run_tests() {
  cd -- "$root"
  python=$(find_python)
  if test_stamp | venv_is_ready .venv 'boto3, moto, pytest'; then
    start_preparation
  else
    new_venv .venv "the test requirements" .venv
    start_preparation
    install_test_requirements
  fi
  finish_preparation
  # All tests: on all processors. Chosen ones: in one process, so that --pdb works.
  case $* in
    '' | --long) set -- "$@" -n auto --dist loadfile --no-loadscope-reorder ;;
  esac
  exec .venv/bin/python -m pytest "$@"
}

case ${1--} in # no command, or options only: build
  test) shift && run_tests "$@" ;; # its -h is that of pytest
  mutate) shift && run_mutations "$@" ;;
  bench) shift && run_tool bench "$@" ;;
  release | verify-build | arn | layers-page) run_tool packaging/release "$@" ;;
  publish | verify | report | rollout | attach | detach | rollback | status | prune | doctor) run_fleet "$@" ;;
  help) show_help ;;
  function | layer | pin | -*) if asks_for_help "$@"; then show_help; else run_tool packaging "$@"; fi ;;
  *) die "unknown command: $1 (see ./build.sh --help)" 2 ;;
esac
