"""`build.sh` itself: help, commands and statuses, the search for Python, the virtual environments."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.checkout import ROOT, Checkout
from support.emulator import until
from support.examples import sample
from support.processes import is_running

HEADER = [
    line.removeprefix("#").removeprefix(" ")
    for line in (ROOT / "build.sh").read_text().split("\nset -eu\n")[0].splitlines()[1:]
]

# Stands in for Python and pip: it logs its calls and creates the files that the real ones would create.
FAKE_PYTHON = """#!/bin/sh
printf '%s %s\\n' "${0##*/}" "$*" >>"$CALLS"
case "$1 ${2-}" in
  --version*) echo "Python ${FAKE_VERSION-3.11.9}" ;;
  "-m venv") [ -z "${VENV_FAILS-}" ] || exit 1; mkdir -p "$4/bin" && cp "$0" "$4/bin/python" ;;
  "-m pip")
    [ -z "${PIP_SIGNALS-}" ] || kill "-$PIP_SIGNALS" "$PPID"
    [ -z "${PIP_FAILS-}" ] || { echo "ERROR: No matching distribution found"; exit 1; } ;;
  "-m pytest") exit 5 ;;
  "-P -S") exit "${FAKE_STATUS-3}" ;; # 3: the command needs boto3
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout.at(tmp_path / "checkout")


@pytest.fixture
def bare_path(tmp_path: Path) -> Path:
    """A folder for PATH with the programs that `build.sh` needs, and no Python."""
    path = tmp_path / "bin"
    path.mkdir()
    for name in ("dirname", "sed", "cat", "uname", "mkdir", "cp", "mv", "rm"):
        program = shutil.which(name)
        assert program is not None
        (path / name).symlink_to(program)
    return path


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


# Help and usage

PYTHONS = "3.11,3.12,3.13,3.14"
UNKNOWN_VERSIONS = {
    "": "",
    "all": "all",
    "3.10": "3.10",
    "3.11.2": "3.11.2",
    "python3.11": "python3.11",
    "3.11,3.99": "3.99",
    "3.11,": "",
    "3.11, 3.12": " 3.12",
    "3.11,none": "none",
}
BYTECODE_OF_A_FUNCTION = [
    ["function", "function", "--bytecode", "none"],
    ["--bytecode", "3.11", "function", "function"],
]


@pytest.mark.parametrize("words", [["-h"], ["--help"], ["help"], ["function", "--help"], ["-n", "-h"]])
def test_help_is_the_header_comment(checkout: Checkout, words: list[str]) -> None:
    assert checkout.build(*words).splitlines() == HEADER


def test_help_needs_no_python(checkout: Checkout, bare_path: Path) -> None:
    assert checkout.build("--help", PATH=str(bare_path)).splitlines() == HEADER


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["frobnicate"], "unknown command: frobnicate"),
        ([""], "unknown command: "),
        (["function"], "the following arguments are required: FOLDER"),
        (["function", ""], "argument FOLDER: the name of a folder is empty"),
        (["function", "a", "b"], "unrecognized arguments: b"),
        (["--dry"], "unrecognized arguments: --dry"),
        (["-o"], "argument -o/--output: expected one argument"),
        (["-o", ""], "argument -o/--output: the name of a folder is empty"),
        (["-n", "function"], "the following arguments are required: FOLDER"),
        (
            ["layer", "--python", "3.13", "--arch", "arm64", "--interpreter", ""],
            "argument --interpreter: it is empty",
        ),
        (["--bytecode"], "argument --bytecode: expected one argument"),
        *sample(
            [
                (["--bytecode", words], f"argument --bytecode: {word!r} is unknown, use none or some of {PYTHONS}")
                for words, word in UNKNOWN_VERSIONS.items()
            ],
            4,
        ),
        *(
            (words, "--bytecode is for the slim layer; other zips contain none, or that of one Python")
            for words in BYTECODE_OF_A_FUNCTION
        ),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(checkout: Checkout, words: list[str], message: str) -> None:
    before = checkout.files()
    result = checkout.run(*words)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"build.sh: error: {message} (see ./build.sh --help)\n"
    assert checkout.files() == before


# The search for Python


def test_without_python_the_message_lists_what_was_tried(checkout: Checkout, bare_path: Path) -> None:
    for words in ([], ["function", "."], ["test"]):
        refusal = checkout.refusal(*words, PATH=str(bare_path))
        assert refusal.startswith("Python 3.11 or later is needed and was not found on PATH ")


def test_a_python_that_does_not_start_is_skipped(checkout: Checkout, bare_path: Path) -> None:
    for name in ("python3", "python3.14", "python3.12"):
        program(bare_path / name, "#!/bin/sh\necho 'this version is not installed' >&2\nexit 127\n")
    (bare_path / "python3.11").symlink_to(Path(sys.executable).resolve())
    report = checkout.build(PATH=str(bare_path))
    assert checkout.dist.joinpath("SHA256SUMS").is_file()
    shim = f"{bare_path}/python3.14 fails: this version is not installed"
    assert f"bytecode for 3.14  left out, no final release of CPython 3.14 on PATH or in pyenv ({shim})\n" in report


# The tests' own environment


class Sandbox:
    """`build.sh` with a stand-in for Python."""

    def __init__(self, checkout: Checkout, path: Path) -> None:
        self.checkout, self.path, self.log = checkout, path, path.parent / "calls"
        program(path / "python3", FAKE_PYTHON)

    def test(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.run("test", *words, **environment)

    def run(self, *words: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        self.log.write_text("")
        return self.checkout.run(*words, cwd=cwd, PATH=str(self.path), CALLS=str(self.log), **environment)

    def calls(self) -> list[str]:
        """The calls of modules and tools in the last run, without those that prepare stand-ins at the same time."""
        lines = self.log.read_text().replace(f"{self.checkout.root}/tools/", "tools/").splitlines()
        return [line for line in lines if (" -m " in line or " tools/" in line) and " -m support." not in line]

    def venv(self, name: str) -> Path:
        return self.checkout.root / ".venv" / name


@pytest.fixture
def sandbox(checkout: Checkout, bare_path: Path) -> Sandbox:
    return Sandbox(checkout, bare_path)


INSTALL = "python -m pip install --quiet --disable-pip-version-check "
FIRST_RUN = [
    "python3 -m venv --clear .venv",
    f"{INSTALL}-r tests/requirements.txt",
    f"{INSTALL}--no-compile --no-deps -r tests/requirements-no-deps.txt",
    "python -m pytest -k word",
]


@pytest.fixture
def on_linux(sandbox: Sandbox) -> None:
    sandbox.path.joinpath("uname").unlink()
    program(sandbox.path / "uname", "#!/bin/sh\necho Linux\n")


@pytest.mark.usefixtures("on_linux")
def test_the_first_test_run_installs_and_the_second_does_not(sandbox: Sandbox) -> None:
    result = sandbox.test("-k", "word")
    assert result.returncode == 5  # that of pytest
    assert result.stderr == "build.sh: installing the test requirements into .venv (once)\n"
    assert sandbox.calls() == FIRST_RUN
    result = sandbox.test("-k", "word")
    assert (result.returncode, result.stderr) == (5, "")
    assert sandbox.calls() == FIRST_RUN[-1:]


@pytest.mark.usefixtures("on_linux")
def test_the_stand_ins_are_prepared_before_the_tests(sandbox: Sandbox) -> None:
    sandbox.test("-k", "word")
    *before, pytest = sandbox.log.read_text().splitlines()
    assert pytest == "python -m pytest -k word"
    preparation = [line for line in before if line.startswith("python -m support.")]
    assert sorted(preparation) == [
        "python -m support.debian_stand_ins",
        "python -m support.package_environments agents",
        "python -m support.package_environments frameworks",
        "python -m support.package_environments sbom",
        "python -m support.python_stand_ins",
    ]


# Stands in for a Python that prepares the stand-ins until it is ended. It has no trap: dash can lose a signal that it
# catches.
ENDLESS = (
    FAKE_PYTHON
    + """case "$1 ${2-}" in
  *debian*) echo "started $$" >>"$CALLS"; exec sleep 3600 ;;
esac
"""
)


@pytest.mark.usefixtures("on_linux")
def test_programs_that_prepare_stand_ins_end_with_a_run_that_fails(sandbox: Sandbox) -> None:
    sandbox.path.joinpath("sleep").symlink_to("/bin/sleep")
    waits = """"-m pip") until grep -q started "$CALLS"; do sleep 0.01; done; """
    sandbox.path.joinpath("grep").symlink_to("/bin/grep")
    program(sandbox.path / "python3", ENDLESS.replace('"-m pip") ', waits))
    assert sandbox.test(PIP_FAILS="yes").returncode == 1
    _, _, process = sandbox.log.read_text().partition("started ")
    until(lambda: not is_running(int(process.split()[0])))


@pytest.mark.usefixtures("on_linux")
@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ([], "-n auto --dist loadfile --no-loadscope-reorder"),
        (["--long"], "--long -n auto --dist loadfile --no-loadscope-reorder"),
        (["--long", "tests/x.py"], "--long tests/x.py"),
        (["tests/x.py", "--long"], "tests/x.py --long"),
    ],
)
def test_all_tests_run_on_all_processors_and_chosen_ones_in_one_process(
    sandbox: Sandbox, words: list[str], arguments: str
) -> None:
    sandbox.test(*words)
    assert sandbox.calls()[-1] == f"python -m pytest {arguments}"


def test_the_emulator_is_installed_on_linux_only(sandbox: Sandbox) -> None:
    sandbox.path.joinpath("uname").unlink()
    program(sandbox.path / "uname", "#!/bin/sh\necho Darwin\n")
    sandbox.test("-k", "word")
    assert sandbox.calls() == [FIRST_RUN[0], FIRST_RUN[1], FIRST_RUN[3]]


@pytest.mark.usefixtures("on_linux")
@pytest.mark.parametrize("damage", ["no stamp", "no python", "broken python", "new requirement", "moved"])
def test_a_broken_or_outdated_environment_is_created_again(sandbox: Sandbox, damage: str) -> None:
    sandbox.test()
    match damage:
        case "no stamp":
            sandbox.venv("stamp").unlink()
        case "no python":
            sandbox.venv("bin/python").unlink()
        case "broken python":
            program(sandbox.venv("bin/python"), "#!/bin/sh\nexit 1\n")
        case "new requirement":
            with (sandbox.checkout.root / "tests/requirements-no-deps.txt").open("a") as file:
                file.write("another==1.0\n")
        case "moved":
            root = sandbox.checkout.root
            sandbox.checkout = Checkout(root.rename(root.parent / "elsewhere"))
    sandbox.test("-k", "word")
    assert sandbox.calls() == FIRST_RUN


@pytest.mark.usefixtures("on_linux")
def test_another_python_version_creates_the_environment_again(sandbox: Sandbox) -> None:
    sandbox.test()
    sandbox.test("-k", "word", FAKE_VERSION="3.12.1")
    assert sandbox.calls() == FIRST_RUN


@pytest.mark.usefixtures("on_linux")
def test_an_environment_of_another_checkout_is_not_cleared(sandbox: Sandbox, tmp_path: Path) -> None:
    stamp = tmp_path / "other" / "stamp"
    stamp.parent.mkdir()
    stamp.write_text("of another checkout\n")
    (sandbox.checkout.root / ".venv").symlink_to(stamp.parent)
    for words in (["test"], ["mutate", "http1"]):
        result = sandbox.run(*words)
        assert result.returncode == 1
        assert result.stderr == (
            f"build.sh: error: {sandbox.checkout.root}/.venv is a symbolic link, and the folder behind it would be "
            "cleared: remove the link\n"
        )
    assert stamp.read_text() == "of another checkout\n"


def test_a_failing_pip_is_one_line_and_tried_again_next_time(sandbox: Sandbox) -> None:
    result = sandbox.test(PIP_FAILS="yes")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.splitlines()[1:] == [
        "build.sh: error: pip could not install the test requirements, see .venv/pip.log "
        "(is a package index reachable?)"
    ]
    assert sandbox.venv("pip.log").read_text() == "ERROR: No matching distribution found\n"
    sandbox.test("-k", "word")
    assert sandbox.calls() == FIRST_RUN


def boto3_requirement(checkout: Checkout) -> str:
    requirements = (checkout.root / "tests/requirements.txt").read_text().splitlines()
    (boto3,) = [line for line in requirements if line.startswith("boto3==")]
    return boto3


WITHOUT_BOTO3 = "python3 -P -S -X utf8 tools/fleet/__main__.py"
WITH_BOTO3 = "python -P -X utf8 tools/fleet/__main__.py"


def test_a_command_for_aws_installs_boto3_alone_and_once(sandbox: Sandbox, tmp_path: Path) -> None:
    boto3 = boto3_requirement(sandbox.checkout)
    words = "publish --dry-run"
    result = sandbox.run(*words.split(), cwd=tmp_path)  # from elsewhere
    assert (result.returncode, result.stderr) == (0, "build.sh: installing boto3 into .venv-fleet (once)\n")
    first, create, *others = sandbox.calls()
    assert first == f"{WITHOUT_BOTO3} {words}"
    assert create.startswith(f"python3 -m venv --clear {sandbox.checkout.root}/.venv-fleet/python-3.11.9-boto3-")
    assert others == [f"{INSTALL}{boto3}", f"{WITH_BOTO3} {words}"]
    result = sandbox.run(*words.split(), cwd=tmp_path)
    assert (result.returncode, result.stderr, sandbox.calls()) == (0, "", [f"{WITH_BOTO3} {words}"])


@pytest.mark.parametrize("status", [0, 1, 2])
def test_what_needs_no_boto3_does_not_install_it(sandbox: Sandbox, status: int) -> None:
    result = sandbox.run("doctor", "--json", "layer.zip", FAKE_STATUS=str(status))
    assert (result.returncode, result.stderr) == (status, "")
    assert sandbox.calls() == [f"{WITHOUT_BOTO3} doctor --json layer.zip"]


@pytest.mark.usefixtures("on_linux")
def test_a_search_for_missing_tests_installs_them_unless_the_usage_is_wrong(sandbox: Sandbox) -> None:
    without = "python3 -P -S -X utf8 tools/mutation/__main__.py --lines"
    assert sandbox.run("mutate", "--lines", FAKE_STATUS="2").returncode == 2
    assert sandbox.calls() == [without]
    sandbox.run("mutate", "--lines")
    assert sandbox.calls() == [without, *FIRST_RUN[:3], "python -P -X utf8 tools/mutation/__main__.py --lines"]


@pytest.mark.parametrize("words", ["rollout --all-using --probe -", "rollout @/dev/stdin"])
def test_standard_input_is_read_once(sandbox: Sandbox, words: str) -> None:
    sandbox.run(*words.split())
    assert sandbox.calls()[-1] == f"{WITH_BOTO3} {words}"
    assert f"{WITHOUT_BOTO3} {words}" not in sandbox.calls()


LOCAL_COMMANDS = {
    "rollout --help": (0, "usage: ./build.sh rollout "),
    "rollout --frobnicate": (
        2,
        "build.sh: error: unrecognized arguments: --frobnicate (see ./build.sh rollout --help)\n",
    ),
    "publish --variant": (2, "build.sh: error: argument --variant: expected at least one argument"),
    "doctor": (2, "build.sh: error: the following arguments are required: ZIP|FUNCTION"),
    "doctor --handler a.b missing.zip": (1, "build.sh: error: cannot read missing.zip: No such file or directory"),
    "status missing.jsonl": (1, "build.sh: error: cannot read the journal missing.jsonl: "),
    "rollback missing.jsonl": (1, "build.sh: error: cannot read the journal missing.jsonl: "),
    "rollout --resume missing.jsonl": (1, "build.sh: error: cannot read the journal missing.jsonl: "),
    "rollout": (2, "build.sh: error: no functions are selected: "),
    "report": (3, ""),
    "doctor function-name": (3, ""),
    "status s3://bucket/journals/": (3, ""),
}


@pytest.mark.parametrize("words", LOCAL_COMMANDS)
def test_a_command_without_boto3_does_its_work_or_nothing(words: str, tmp_path: Path) -> None:
    status, output = LOCAL_COMMANDS[words]
    command = [sys.executable, "-P", "-S", "-m", "tools.fleet", *words.split()]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "STATUS_WITHOUT_PACKAGES": "3"}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == status, result.stderr
    assert (result.stdout + result.stderr).startswith(output)
    assert bool(result.stdout + result.stderr) == bool(output)


@pytest.mark.usefixtures("on_linux")
def test_the_tests_and_the_commands_for_aws_have_environments_of_their_own(sandbox: Sandbox) -> None:
    sandbox.run("report")
    sandbox.test("-k", "word")
    assert sandbox.calls() == FIRST_RUN
    sandbox.run("report")
    assert sandbox.calls() == ["python -P -X utf8 tools/fleet/__main__.py report"]


# Waits until a file exists, then imports a module for the first time, as boto3 does when it is used.
ROLL_OUT = """
import pathlib, sys, time
started, proceed = map(pathlib.Path, sys.argv[1:])
started.touch()
while not proceed.exists():
    time.sleep(0.01)
import late_module
print(late_module.__file__)
"""


@pytest.mark.usefixtures("on_linux")
def test_a_roll_out_survives_tests_and_an_update_of_boto3_that_start_while_it_runs(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    sandbox.run("report")
    (environment,) = sandbox.checkout.root.glob(".venv-fleet/python-*")
    (environment / "late_module.py").touch()
    started, proceed = tmp_path / "started", tmp_path / "proceed"
    command = [sys.executable, "-c", ROLL_OUT, started, proceed]
    with subprocess.Popen(command, env={"PYTHONPATH": str(environment)}, stdout=subprocess.PIPE, text=True) as roll_out:
        while not started.exists():
            assert roll_out.poll() is None
        sandbox.test("-k", "word")
        requirements = sandbox.checkout.root / "tests/requirements.txt"
        requirements.write_text(requirements.read_text().replace(boto3_requirement(sandbox.checkout), "boto3==99.0"))
        sandbox.test("-k", "word")
        assert sandbox.calls() == FIRST_RUN
        sandbox.run("report")
        proceed.touch()
        output, _ = roll_out.communicate()
    assert output == f"{environment}/late_module.py\n"
    names = [path.name for path in sandbox.checkout.root.glob(".venv-fleet/python-*")]
    assert len(names) == 2 and "python-3.11.9-boto3-99.0" in names


@pytest.mark.parametrize(("name", "status"), [("INT", 130), ("TERM", 143)])
def test_a_signal_during_the_installation_of_boto3_leaves_no_environment(
    sandbox: Sandbox, name: str, status: int
) -> None:
    assert sandbox.run("report", PIP_SIGNALS=name).returncode == status
    assert [path.name for path in sandbox.checkout.root.joinpath(".venv-fleet").iterdir()] == ["pip.log"]
    assert not any(WITH_BOTO3 in call for call in sandbox.calls())


def test_a_boto3_that_cannot_be_installed_is_one_line_and_leaves_no_environment(sandbox: Sandbox) -> None:
    result = sandbox.run("doctor", "function-name", PIP_FAILS="yes")
    assert result.returncode == 1
    log = sandbox.checkout.root / ".venv-fleet/pip.log"
    assert result.stderr.splitlines()[1:] == [
        f"build.sh: error: pip could not install boto3, see {log} (is a package index reachable?)"
    ]
    assert list(log.parent.iterdir()) == [log]


@pytest.mark.parametrize(("words", "name"), [(["test"], ".venv"), (["report"], ".venv-fleet")])
def test_a_checkout_that_cannot_be_written_is_one_line(sandbox: Sandbox, words: list[str], name: str) -> None:
    (sandbox.checkout.root / name).touch()  # a file in the place of the folder: not even root can write below it
    result = sandbox.run(*words)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        f"build.sh: error: cannot write to {sandbox.checkout.root}/{name}: copy the checkout to a folder that you can "
        "write\n"
    )


@pytest.mark.parametrize("command", ["publish", "verify", "report", "rollout", "attach", "rollback", "prune", "doctor"])
def test_each_command_for_aws_has_a_help_of_its_own_and_a_line_in_the_overview(command: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "tools.fleet", command, "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(f"usage: ./build.sh {command} ") and "--json" in result.stdout
    assert any(line.split()[:2] == ["./build.sh", command] for line in HEADER)


def test_a_python_without_venv_is_one_line(sandbox: Sandbox) -> None:
    result = sandbox.test(VENV_FAILS="yes")
    assert result.returncode == 1
    assert "python3 could not create .venv: " in result.stderr.splitlines()[1]


def test_the_tests_run_from_the_top_of_the_checkout_from_any_folder(sandbox: Sandbox, tmp_path: Path) -> None:
    program(sandbox.path / "python3", FAKE_PYTHON.replace("exit 5", "pwd"))
    result = sandbox.checkout.run("test", cwd=tmp_path, PATH=str(sandbox.path), CALLS=str(sandbox.log))
    assert result.stdout == f"{sandbox.checkout.root}\n"
