"""A local stand-in for the parts of AWS Lambda that a streaming function meets.

    http1          reading HTTP/1.1 messages strictly, and a server on a thread for each connection
    invocation     one event on its way to the runtime, and the response on its way back
    runtime_api    the Runtime API of one execution environment; it judges the runtime that calls it
    environment    the process of an execution environment: its variables, its start and its end; a function's pool
    events         the events that Lambda makes of requests
    prelude        status, headers and cookies at the start of a streamed HTTP response
    function_url   the front door over HTTP: a Function URL that streams
    console        what a person is told: START, END and REPORT lines, and errors

The calls go one way, from the front doors down to the process. Only the standard library is needed.
"""
