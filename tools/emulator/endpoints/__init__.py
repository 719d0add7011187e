"""What callers reach over HTTP.

    router                paths of the one port, and where each leads
    page                  the page of --open, with page.html
    function_url          Function URLs, streamed or buffered
    function_url_event    the event of an HTTP request (payload 2.0)
    prelude               status, headers and cookies at the start of a streamed HTTP response
    rest_api              API Gateway REST APIs that stream (--api rest)
    rest_api_event        the event of an HTTP request (payload 1.0)
    cors                  the CORS configuration of a Function URL
    lambda_api            the Lambda API, for SDKs and the AWS CLI; an error for each call that is not emulated
    api_call              the names of functions in a call, and errors
    function_description  what GetFunction and other calls return
    invoke_api            Invoke and InvokeWithResponseStream
    event_stream          the messages of an InvokeWithResponseStream response
    bandwidth             the bandwidth limit of streamed responses

A new endpoint is a module here and a path in `router`. They import `http1` and `execution`.
"""
