"""The log: each line and frame is compared with that of AWS's own Python runtimes.

Three differences are deliberate; their tests are named "unlike on the managed runtime". Without the telemetry
descriptor, carriage returns separate the lines of a text event, so that it stays one event. Every event ends its line,
with any formatter. A frame always contains its severity.
"""

from __future__ import annotations

import datetime
import json
import re

import pytest
from support.examples import sample
from support.function_process import AWSLAMBDARIC, Gate

pytest.importorskip("awslambdaric")

FORMAT = "AWS_LAMBDA_LOG_FORMAT"
LEVEL = "AWS_LAMBDA_LOG_LEVEL"

# Both use the same module `work`, so that paths and line numbers are equal.
OURS = """
from work import work

def handler(event, context):
    work(event)
    yield b""
"""
THEIRS = """
from work import work

def handler(event, context):
    work(event)
"""

CALLS = """
import logging

logger = logging.getLogger("shop.cart")
logging.error("at import")
logger.warning("at import")

def work(event):
    for level in ("debug", "info", "warning", "error", "critical"):
        getattr(logging, level)("by the root at %s", level)
        getattr(logger, level)("by a logger at %s", level)
    for number in (0, 5, 15, 20, 25, 35, 45, 50, 60):
        logging.log(number, "at %d", number)
    logging.error("%s and %r, %05.1f%%", "text", ["list"], 3.14159)
    logging.error("%(name)s", {"name": "by name"})
    logging.error("100%")
    logging.error("Jürgen \U0001f98a \\u2028 \\x1b[31m \\ttab \\\\ \\"quoted\\"")
    logging.error({"a": 1, "b": [True, None, 2.5], "c": {"d": "é"}})
    logging.error({"odd": Exception})
    logging.error([1, "two"])
    logging.error(None)
    logging.error("")
    logging.error("with more", extra={"order": 5, "who": {"name": "x"}, "nothing": None, "odd": Exception})
    logging.error("with taken names", extra={"requestId": "mine", "level": "mine", "location": "mine"})
    logging.error("x" * 300_000)
    logging.warning("with stack_info off", stack_info=False)
    logging.LoggerAdapter(logger, {"adapted": "yes"}).error("by an adapter")
    logging.addLevelName(35, "NOTICE")
    logging.log(35, "at a level with a name")
"""
TRACES = """
import logging

def fail(text):
    raise KeyError(text)

def work(event):
    try:
        fail("no such thing")
    except KeyError as error:
        logging.exception("first")
        logging.getLogger("shop").error("second %s", 2, exc_info=error)
        logging.warning("third", exc_info=(KeyError, error, error.__traceback__))
    try:
        try:
            fail("inner")
        finally:
            fail("outer")
    except KeyError:
        logging.exception("chained")
    logging.error("with a stack", stack_info=event == "stack")
    logging.error("not there", exc_info=None)
"""
MANY_LINES = """
import logging

def work(event):
    logging.error("one\\ntwo\\n\\n  three")
    logging.error("dos\\r\\nlines")
    logging.error("%s", "a\\nb")
    print("plain")
"""


THREADS = """
import logging, threading

def log(name):
    for _ in range(200):
        logging.error(name * 3000)

def work(event):
    threads = [threading.Thread(target=log, args=[name]) for name in "abcd"]
    [each.start() for each in threads]
    [each.join() for each in threads]
"""


@pytest.fixture
def both(runtime):
    """Runs a module `work` on the layer and on awslambdaric. Returns the standard output of both."""

    def start(work, events=({},), fails=False, **variables):
        ours = runtime(code(work, OURS), variables=variables)
        theirs = runtime(code(work, THEIRS), variables=variables, command=AWSLAMBDARIC)
        return logged(ours, events, fails), logged(theirs, events, fails)

    return start


def code(work, handler):
    return {"work.py": work, "lambda_function.py": handler}


def logged(function, events=({},), fails=False):
    """Return the masked standard output after these invocations."""
    identifiers = invoke_all(function, events, fails)
    return masked(function, identifiers, function.stdout)


def invoke_all(function, events, fails):
    """Invoke the function with each event; with a tenant, if the event is not empty."""
    identifiers = []
    for event in events:
        identifiers.append(function.invoke(event, {"Lambda-Runtime-Aws-Tenant-Id": "tenant-1"} if event else {}))
        request = function.request()
        assert request.path.endswith("/error" if fails else "/response"), request.body
        if request.headers.get("transfer-encoding") == "chunked":
            assert not function.peer.read_chunk()
            assert not function.peer.read_trailers()
        function.accept()
    function.expect_next()
    return identifiers


def masked(function, identifiers, text):
    """Return the text without the parts that differ between two runs."""
    for number, identifier in enumerate(identifiers):
        text = text.replace(identifier, f"<id {number}>")
    text = text.replace(str(function.task), "<task>")
    return re.sub(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?Z", lambda time: "<milliseconds>" if time[1] else "<time>", text
    )


def events_of(text):
    """Return the JSON events of a log, one for each line."""
    return [json.loads(line) for line in text.removesuffix("\n").split("\n")]


def one_line(text):
    return text.replace("\r\n", "\r").replace("\n", "\r")


# Lines


LEVELS = [None, "", "TRACE", "DEBUG", "INFO", "WARN", "WARNING", "ERROR", "FATAL", "CRITICAL"]


@pytest.mark.parametrize(
    ("log_format", "level"),
    [
        *((None, level) for level in LEVELS),
        *sample([(log_format, level) for log_format in ("Text", "nonsense") for level in LEVELS], 7),
    ],
)
def test_text_events_equal_those_of_the_managed_runtime(both, log_format, level):
    ours, theirs = both(CALLS, events=({}, {"tenant": 1}), **{FORMAT: log_format, LEVEL: level})
    assert ours.split("\n") == theirs.split("\n")
    assert "[CRITICAL]\t<milliseconds>\t<id 1>\tby a logger at critical\n" in ours


@pytest.mark.parametrize("level", ["debug", "Info", "error", "NOTSET", "nonsense", "10", " INFO"])
def test_unusual_levels_have_the_same_effect_as_on_the_managed_runtime(both, level):
    ours, theirs = both(CALLS, **{LEVEL: level})
    assert ours.split("\n") == theirs.split("\n")


JSON_LEVELS = [None, "TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"]


@pytest.mark.parametrize(
    ("log_format", "level"),
    [*(("JSON", level) for level in JSON_LEVELS), *sample([("json", level) for level in JSON_LEVELS], 6)],
)
def test_json_events_equal_those_of_the_managed_runtime(both, log_format, level):
    ours, theirs = both(CALLS, events=({}, {"tenant": 1}), **{FORMAT: log_format, LEVEL: level})
    assert events_of(ours) == events_of(theirs)
    assert [list(event) for event in events_of(ours)] == [list(event) for event in events_of(theirs)]


def test_an_extra_field_named_tenant_id_is_kept_like_on_the_managed_runtime(both):
    work = """
        import logging

        def work(event):
            logging.error("x", extra={"tenantId": "mine"})
        """
    ours, theirs = both(work, events=({}, {"tenant": 1}), **{FORMAT: "JSON"})
    assert events_of(ours) == events_of(theirs)


def test_a_trace_in_json_equals_that_of_the_managed_runtime(both):
    ours, theirs = both(TRACES, **{FORMAT: "JSON"})
    assert events_of(ours) == events_of(theirs)
    assert [event.get("errorType") for event in events_of(ours)] == ["KeyError"] * 4 + [None] * 2


def test_a_trace_in_text_equals_that_of_the_managed_runtime_on_one_line(both):
    ours, theirs = both(TRACES)
    # After a trace, awslambdaric begins the next event on the same line.
    events = [event.removesuffix("\n") for event in re.split(r"(?=\[[A-Z]+\]\t)", theirs)[1:]]
    assert ours.split("\n") == [one_line(event) for event in events] + [""]
    assert len(events) == 6 and "\rKeyError: 'no such thing'\n" in ours


def test_a_line_break_at_the_end_of_a_message_makes_no_empty_line(runtime):
    work = r"""
        import logging

        def work(event):
            logging.error("one\n")
            logging.error("two")
        """
    head = "[ERROR]\t<milliseconds>\t<id 0>\t"
    assert logged(runtime(code(work, OURS))) == f"{head}one\n{head}two\n"


def test_carriage_returns_separate_the_lines_of_a_text_event_unlike_on_the_managed_runtime(both):
    ours, theirs = both(MANY_LINES)
    head = "[ERROR]\t<milliseconds>\t<id 0>\t"
    assert ours == f"{head}one\rtwo\r\r  three\n{head}dos\rlines\n{head}a\rb\nplain\n"
    assert theirs == f"{head}one\ntwo\n\n  three\n{head}dos\r\nlines\n{head}a\nb\nplain\n"


def test_messages_of_several_lines_in_json_equal_those_of_the_managed_runtime(both):
    ours, theirs = both(MANY_LINES, **{FORMAT: "JSON"})
    assert ours.count("\n") == 4
    assert events_of(ours.replace("plain\n", "")) == events_of(theirs.replace("plain\n", ""))


def test_an_event_ends_its_line_with_any_formatter_unlike_on_the_managed_runtime(both):
    work = """
        import logging

        root = logging.getLogger()
        root.handlers[0].setFormatter(logging.Formatter("%(message)s"))

        def work(event):
            logging.error("one")
            logging.error("two")
        """
    assert both(work) == ("one\ntwo\n", "onetwo")


@pytest.mark.parametrize(
    "pattern", ["%(levelname)s|%(name)s|%(message)s|%(aws_request_id)s|%(tenant_id)s", "%(message)s"]
)
def test_a_formatter_of_the_function_gets_the_same_records(both, pattern):
    work = f"""
        import logging

        root = logging.getLogger()
        root.handlers[0].setFormatter(logging.Formatter({pattern + chr(10)!r}))
        logging.error("init")

        def work(event):
            logging.getLogger("a.b").error("one %s", 1)
        """
    ours, theirs = both(work, events=({}, {"tenant": 1}))
    assert ours == theirs


def test_a_filter_and_a_handler_of_the_function_work_like_on_the_managed_runtime(both):
    work = """
        import logging, sys

        root = logging.getLogger()
        root.handlers[0].addFilter(lambda r: "secret" not in r.msg)
        root.addHandler(logging.StreamHandler(sys.stdout))

        def work(event):
            logging.error("secret")
            logging.error("open")
        """
    ours, theirs = both(work)
    assert ours == theirs
    assert ours.count("secret") == 1 and ours.count("open") == 2


def test_basic_config_has_no_effect_unless_it_is_forced(both):
    work = """
        import logging, sys

        logging.basicConfig(level="DEBUG", format="%(message)s")

        def work(event):
            logging.info("hidden")
            logging.error("seen")
            logging.basicConfig(level="DEBUG", format="%(message)s", stream=sys.stdout, force=True)
            logging.info("forced")
        """
    ours, theirs = both(work)
    assert ours == theirs == "[ERROR]\t<milliseconds>\t<id 0>\tseen\nforced\n"


def test_logging_that_the_handler_imports_is_configured_too(both):
    work = """
        def work(event):
            import logging.config
            from logging import getLogger

            getLogger("late").error("x")
        """
    ours, theirs = both(work, events=({}, {"tenant": 1}))
    assert ours == theirs


def test_events_of_threads_equal_those_of_the_managed_runtime(both):
    work = """
        import logging, threading

        def work(event):
            thread = threading.Thread(target=logging.error, args=["x"])
            thread.start()
            thread.join()
        """
    for log_format in ("Text", "JSON"):
        ours, theirs = both(work, **{FORMAT: log_format})
        assert ours.replace('": ', '":') == theirs.replace('": ', '":')


def test_events_of_many_threads_are_not_mixed(runtime):
    lines = logged(runtime(code(THREADS, OURS))).splitlines()
    expected = ["[ERROR]\t<milliseconds>\t<id 0>\t" + name * 3000 for name in "abcd" for _ in range(200)]
    assert sorted(lines) == sorted(expected)


@pytest.mark.parametrize("log_format", ["Text", "JSON"])
def test_an_event_is_logged_after_the_function_replaced_standard_output(runtime, log_format):
    work = """
        import io, logging, sys

        def work(event):
            sys.stdout = io.StringIO()
            print("lost")
            logging.error("kept")
            sys.stdout = None
            logging.error("kept")
        """
    text = logged(runtime(code(work, OURS), variables={FORMAT: log_format}))
    assert text.count("kept") == 2 and "lost" not in text


@pytest.mark.parametrize("log_format", ["Text", "JSON"])
def test_a_logging_error_is_on_standard_error_and_the_invocation_continues(runtime, log_format):
    work = """
        import logging

        def work(event):
            logging.error("%d", "no number")
            logging.error("after")
        """
    function = runtime(code(work, OURS), variables={FORMAT: log_format})
    assert "after" in logged(function)
    assert "--- Logging error ---" in function.stderr and "no number" in function.stderr


@pytest.mark.parametrize("log_format", ["Text", "JSON"])
def test_lone_surrogates_are_logged_as_escapes(runtime, log_format):
    work = r"""
        import logging

        def work(event):
            logging.error("\udc80")
        """
    text = logged(runtime(code(work, OURS), variables={FORMAT: log_format}))
    assert "\\udc80" in text


@pytest.mark.parametrize("log_format", ["Text", "JSON"])
def test_times_are_in_utc_for_any_time_zone_of_the_function(runtime, log_format):
    work = """
        import logging

        def work(event):
            logging.error("logged")
            raise ValueError("unhandled")
        """
    function = runtime(code(work, OURS), variables={"TZ": "ABC-9", FORMAT: log_format})
    function.fail()
    function.expect_next()
    times = re.findall(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", function.stdout)
    assert len(times) == (2 if log_format == "JSON" else 1)
    for each in times:
        logged_at = datetime.datetime.fromisoformat(each + "+00:00")
        assert abs(datetime.datetime.now(datetime.UTC) - logged_at) < datetime.timedelta(hours=1)


@pytest.mark.parametrize("log_format", ["Text", "JSON"])
def test_print_is_unchanged(both, log_format):
    work = r"""
        import sys

        print("at import")

        def work(event):
            print("one", 2)
            print("a\nb", end="")
            sys.stdout.write("c")
            print()
        """
    ours, theirs = both(work, events=({}, {}), **{FORMAT: log_format, LEVEL: "FATAL"})
    assert ours == theirs == "at import\n" + "one 2\na\nbc\n" * 2


def test_a_function_that_never_logs_does_not_import_logging(runtime):
    function = runtime(
        """
        import sys

        def handler(event, context):
            print("printed")
            context.log("logged")
            if event:
                raise ValueError(event)
            yield str("logging" in sys.modules).encode()
        """
    )
    assert function.respond().body == b"False"
    function.fail("an error event does not need it")
    assert function.respond().body == b"False"


@pytest.mark.parametrize("log_format", ["Text", "JSON"])
def test_a_module_of_the_function_named_logging_is_not_configured(runtime, log_format):
    function = runtime(
        {
            "lambda_function.py": """
                import logging

                def handler(event, context):
                    if event:
                        raise ValueError(event)
                    yield logging.name
                """,
            "logging.py": "name = b'mine'\n",
        },
        variables={FORMAT: log_format},
    )
    assert function.respond().body == b"mine"
    function.fail("x")


# Errors of the handler

ERRORS = """
class Odd(Exception):
    def __str__(self):
        return ""

def inner(text):
    raise ValueError(text)

def work(event):
    if event == "odd":
        raise Odd
    if event == "deep":
        [inner(text) for text in ["deep"]]
    if event == "key":
        {}["k"]
    inner(event)
"""


@pytest.mark.parametrize("event", ["boom", "odd", "deep", "key", "Jürgen \U0001f98a"])
def test_an_unhandled_error_in_text_equals_that_of_the_managed_runtime(both, event):
    ours, theirs = both(ERRORS, events=[event], fails=True)
    assert ours == theirs
    assert ours.count("\n") == 1


@pytest.mark.parametrize("event", ["boom", "odd", "deep", "key", "Jürgen \U0001f98a", "many\nlines"])
def test_an_unhandled_error_in_json_equals_that_of_the_managed_runtime(both, event):
    ours, theirs = both(ERRORS, events=[event], fails=True, **{FORMAT: "JSON"})
    assert events_of(ours) == events_of(theirs)
    assert list(events_of(ours)[0]) == list(events_of(theirs)[0])
    assert len(events_of(ours)) == 1


def test_an_unhandled_error_of_many_lines_is_one_event_unlike_on_the_managed_runtime(both):
    ours, theirs = both(ERRORS, events=["many\nlines\r\nof text"], fails=True)
    assert ours == one_line(theirs.removesuffix("\n")) + "\n"
    assert (ours.count("\n"), theirs.count("\n")) == (1, 3)


@pytest.mark.parametrize("keyword", ["def", "async def"])
@pytest.mark.parametrize("log_format", ["Text", "JSON"])
def test_an_error_after_the_first_byte_is_one_event_with_the_users_frames(runtime, log_format, keyword):
    handler = f"""
        {keyword} handler(event, context):
            yield b"part"
            raise ValueError("boom")
        """
    function = runtime(handler, variables={FORMAT: log_format})
    request_id = function.invoke()
    function.read_response(request_id)
    function.accept()
    function.expect_next()
    text = masked(function, [request_id], function.stdout)
    frame = '  File "<task>/lambda_function.py", line 3, in handler\n    raise ValueError("boom")\n'
    if log_format == "JSON":
        assert events_of(text) == [
            {
                "timestamp": "<time>",
                "level": "ERROR",
                "errorMessage": "boom",
                "errorType": "ValueError",
                "requestId": "<id 0>",
                "stackTrace": [frame],
            }
        ]
    else:
        lines = ["[ERROR] ValueError: boom", "Traceback (most recent call last):", *frame.splitlines()]
        assert text == "\r".join(re.sub("^ +", lambda blanks: "\u00a0" * len(blanks[0]), line) for line in lines) + "\n"


def test_a_line_of_the_runtime_in_json_has_the_id_of_the_invocation(runtime):
    code = """
        def handler(event, context):
            yield b""
        """
    function = runtime(code, variables={FORMAT: "JSON"})
    request_id = function.invoke()
    function.read_response(request_id)
    function.peer.send(b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n")
    function.expect_next()
    record = json.loads(function.stderr)
    assert (record["requestId"], record["level"]) == (request_id, "ERROR")
    assert "410" in record["message"] and record["logger"].startswith("python-streaming-runtime/")


@pytest.mark.parametrize("log_format", ["Text", "JSON"])
def test_a_function_that_logs_nothing_has_an_empty_log(runtime, log_format):
    function = runtime(
        """
        def handler(event, context):
            yield b"x"
        """,
        variables={FORMAT: log_format},
    )
    function.respond()
    function.expect_next()
    assert (function.stdout, function.stderr) == ("", "")


# Frames: events on the telemetry descriptor of the service

KINDS = {0xA55A0002: "JSON", 0xA55A0003: "Text"}
SEVERITY = 0x1C  # the bits of it


def frames(data):
    """Return the events as (format, severity, text). Check their times."""
    found = []
    while data:
        kind, length, microseconds = (
            int.from_bytes(data[start:end], "big") for start, end in ((0, 4), (4, 8), (8, 16))
        )
        assert 1.7e15 < microseconds < 5e15
        assert len(data) >= 16 + length
        found.append((KINDS[kind & ~SEVERITY], kind & SEVERITY, data[16 : 16 + length].decode("utf-8")))
        data = data[16 + length :]
    return found


@pytest.fixture
def framed(runtime, tmp_path):
    """Like `both`, with a telemetry descriptor. Returns the masked frames and standard output of both."""

    def run(name, work, handler, command, events, fails, variables):
        path = tmp_path / name
        with path.open("wb") as file:
            function = runtime(
                code(work, handler),
                variables={**variables, "_LAMBDA_TELEMETRY_LOG_FD": str(file.fileno())},
                pass_fds=(file.fileno(),),
                command=command,
            )
        identifiers = invoke_all(function, events, fails)
        seen = [(kind, level, masked(function, identifiers, text)) for kind, level, text in frames(path.read_bytes())]
        return seen, masked(function, identifiers, function.stdout)

    def start(work, events=({},), fails=False, **variables):
        return (
            run("ours", work, OURS, None, events, fails, variables),
            run("theirs", work, THEIRS, AWSLAMBDARIC, events, fails, variables),
        )

    return start


def without_last_newline(seen):
    """Return frames of awslambdaric without the line break that its formatters add."""
    return [(kind, severity, text.removesuffix("\n")) for kind, severity, text in seen]


@pytest.mark.parametrize("work", [CALLS, TRACES, MANY_LINES], ids=["calls", "traces", "many lines"])
@pytest.mark.parametrize("level", ["TRACE", "INFO", "FATAL"])
def test_frames_of_text_equal_those_of_the_managed_runtime(framed, work, level):
    (ours, printed), (theirs, _) = framed(work, **{LEVEL: level})
    assert ours == without_last_newline(theirs)
    assert "[ERROR]" not in printed


@pytest.mark.parametrize("work", [CALLS, TRACES, MANY_LINES], ids=["calls", "traces", "many lines"])
@pytest.mark.parametrize("level", [None, "TRACE"])
def test_frames_of_json_equal_those_of_the_managed_runtime(framed, work, level):
    (ours, _), (theirs, _) = framed(work, **{FORMAT: "JSON", LEVEL: level})
    assert [(kind, severity, json.loads(text)) for kind, severity, text in ours] == [
        (kind, severity, json.loads(text)) for kind, severity, text in theirs
    ]


def test_frames_without_a_configured_level_contain_the_severity_unlike_on_the_managed_runtime(framed):
    (ours, _), (theirs, _) = framed(MANY_LINES)
    assert [text for *_, text in ours] == [text for *_, text in without_last_newline(theirs)]
    assert {severity for _, severity, _ in ours} == {0x14}
    assert {severity for _, severity, _ in theirs} == {0}


def test_a_frame_contains_exactly_what_a_formatter_of_the_function_returns(framed):
    work = r"""
        import logging

        root = logging.getLogger()
        root.handlers[0].setFormatter(logging.Formatter("%(message)s"))

        def work(event):
            logging.error("one\ntwo")
            logging.critical("three")
        """
    (ours, _), (theirs, _) = framed(work, **{LEVEL: "INFO"})
    assert ours == theirs == [("Text", 0x14, "one\ntwo"), ("Text", 0x18, "three")]


@pytest.mark.parametrize("log_format", ["Text", "JSON"])
@pytest.mark.parametrize("event", ["boom", "odd", "many\nlines"])
def test_the_frame_of_an_unhandled_error_equals_that_of_the_managed_runtime(framed, log_format, event):
    (ours, printed), (theirs, _) = framed(ERRORS, events=[event], fails=True, **{FORMAT: log_format})
    assert ours == theirs
    assert [(kind, severity) for kind, severity, _ in ours] == [(log_format, 0x14)]
    assert printed == ""


def test_the_function_does_not_see_the_descriptor_and_prints_to_standard_output(framed):
    work = """
        import os

        def work(event):
            print(os.environ.get("_LAMBDA_TELEMETRY_LOG_FD"))
        """
    assert framed(work) == (([], "None\n"), ([], "None\n"))


def test_context_log_writes_one_frame_like_on_the_managed_runtime(framed):
    # Only the handler has the context; `work` finds it in the call stack.
    work = r"""
        import sys

        def work(event):
            sys._getframe(1).f_locals["context"].log("one\ntwo")
        """
    ours, theirs = framed(work)
    assert ours == theirs == ([("Text", 0, "one\ntwo")], "")


@pytest.mark.parametrize("descriptor", ["", "nonsense", "-1", "9999"])
def test_an_invalid_descriptor_does_not_stop_the_function(runtime, descriptor):
    function = runtime(code(CALLS, OURS), variables={"_LAMBDA_TELEMETRY_LOG_FD": descriptor})
    invoke_all(function, [{}, {}], False)


def test_many_threads_write_whole_frames(runtime, tmp_path):
    with (tmp_path / "frames").open("wb") as file:
        function = runtime(
            code(THREADS, OURS),
            variables={"_LAMBDA_TELEMETRY_LOG_FD": str(file.fileno())},
            pass_fds=(file.fileno(),),
        )
    logged(function)
    texts = [text.rpartition("\t")[2] for *_, text in frames((tmp_path / "frames").read_bytes())]
    assert sorted(texts) == sorted(name * 3000 for name in "abcd" for _ in range(200))


def test_print_without_a_newline_is_in_the_log_while_the_handler_runs(runtime, tmp_path):
    function = runtime(
        """
        import sys

        def handler(event, context):
            print("out", end="")
            print("err", end="", file=sys.stderr)
            yield b"x"
            with open(event) as gate:
                gate.read()
        """
    )
    gate = Gate(tmp_path)
    function.expect_response(function.invoke(gate.path))
    function.peer.read_chunk()
    assert (function.stdout, function.stderr) == ("out", "err")
    gate.open()


@pytest.mark.parametrize("place", [0, 1, 100], ids=["first", "second", "last"])
def test_logging_is_configured_beside_a_finder_without_find_spec(runtime, place):
    function = runtime(
        f"""
        import sys

        class Finder:  # as before PEP 451; Python 3.11 calls it, later versions skip it
            def find_module(self, name, path=None):
                return None

        sys.meta_path.insert({place}, Finder())

        import logging

        def handler(event, context):
            logging.error("logged")
            yield b""
        """,
        variables={"PYTHONWARNINGS": "ignore"},
    )
    assert logged(function) == "[ERROR]\t<milliseconds>\t<id 0>\tlogged\n"
