"""Execution environments and their invocations.

    invocation           one event for a runtime, and its response, between the caller's thread and the runtime's thread
    api_responses        the responses of the Runtime API and of the Extensions API
    extensions_api       the Extensions API: registration, INVOKE and SHUTDOWN events
    runtime_api          RuntimeApiServer: the Runtime API of one environment; it checks the runtime that calls it
    deadlines            timeouts, all on one thread
    function_log         the output of a process, and the end of it that `LogType: Tail` returns
    external_extensions  the processes of the programs in /opt/extensions
    base_environment     what all environments have in common
    environment          an environment: a process and the invocations that it serves
    attached             an environment whose process a developer starts
    snapstart            an environment that is held between its init phase and its first invocation
    log_provider         the socket at which the processes of a managed instance get their log descriptors
    concurrent_api       the Runtime API of a managed instance
    managed_instance     an environment that serves several invocations at a time
    pool                 the environments of one function: reuse, limit, replacement after a change of the code

Each imports those above it. They import `http1`, `deployment`, `sandbox` and `console`; only `endpoints` and the
commands import them.
"""
