"""A local stand-in for the parts of AWS Lambda that a streaming function and its callers meet.

The command:
    options          the command line, read and checked
    cli              one invocation, or serving
    console          what a person is told: START, END and REPORT lines, errors; or JSON for a program

What callers reach:
    front_door       all of it on one port, by its paths
    function_url     Function URLs, streamed or buffered
    invoke_api       Invoke and InvokeWithResponseStream, for SDKs and the AWS CLI
    event_stream     the frames that InvokeWithResponseStream answers with
    events           the events that Lambda makes of HTTP requests
    prelude          status, headers and cookies at the start of a streamed HTTP response
    cors, throttle   what a Function URL can be configured to answer; how fast the service streams
    answers, http1   writing HTTP/1.1 answers; reading messages strictly, a thread for each connection

What runs:
    function         a function's pool of execution environments, and its limit
    environment      one of them: a process, its invocations, its log, its end
    invocation       one event on its way to the runtime, and the response on its way back
    runtime_api      the Runtime API of one environment; it judges the runtime that calls it
    configuration    what a function is configured with, and the variables that come of it
    code             layers and functions, folders or zips, and the folders that they run from
    alarms           deadlines

What keeps processes from staying behind:
    processes        the emulator's side of the supervisor
    supervisor       the process that starts all others, and ends them when the emulator is gone
    isolation        a file system as the service's for a process

The calls go one way, from the command and the front doors down to the processes. Only the standard library is needed.
"""
