"""What callers reach over HTTP.

    router               paths of the one port, and where each leads
    function_url         Function URLs, streamed or buffered
    function_url_event   the event of an HTTP request (payload 2.0)
    prelude              status, headers and cookies at the start of a streamed HTTP response
    cors                 the CORS configuration of a Function URL
    invoke_api           Invoke and InvokeWithResponseStream, for SDKs and the AWS CLI
    event_stream         the messages of an InvokeWithResponseStream response
    bandwidth            the bandwidth limit of streamed responses

A new endpoint is a module here and a path in `router`. They import `http1` and `execution`.
"""
