"""Shared by all tools: paths, the command line, output, zip archives, URLs, and facts about AWS Lambda.

Reading order:
    errors            ToolError and UsageError, the base of every error that a command reports in one line
    paths             ROOT, the checkout; reading and walking files; atomic writes
    early_interrupt   Ctrl-C before a command runs
    signals           SIGINT and SIGTERM: an orderly end on the first one, an immediate end on the second one
    cli               the parser, the exit statuses, and what every command does with an error
    operating_system  what differs between Linux and macOS
    output            tables, counts, JSON, questions
    urls              URLs without user, password and signature
    archives          the one reader of zip files
    function_folder   which files of a function's folder a zip contains
    lambda_facts      limits, architectures, runtimes and ARNs of AWS Lambda, each with its source

Allowed imports: the standard library and `tools.common`.
"""
