"""Publishes the layer and rolls its versions out to many functions: the commands of `build.sh` that call AWS.

Reading order:
    cli         builds the parser, runs one command
    commands/   one module per command: its arguments, and its work
    rollout/    plan, journal, engine and rollback of a roll-out
    checks/     what keeps a zip or a function from streaming, for `doctor`; outdated bundles, for `report`
    aws/        boto3, the pace of calls, errors, functions and layers

Allowed imports: `tools.common`, `tools.packaging`. Within the package they point downwards in the list above. boto3 and
botocore are imported by `aws/session.py` and `aws/errors.py` alone, and only when AWS is called: the commands' `--help`
and `doctor ZIP` work without them.
"""
