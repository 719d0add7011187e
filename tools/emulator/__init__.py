"""A local emulator of the parts of AWS Lambda that a streaming function and its callers use.

Reading order, from the command line down to the processes:

    options            the command line
    arguments          the values of options
    env_file           --env-file
    profile            --profile
    sample_events      the sample events of --event; they are in events/
    cli                main: the supervisor, signals, the exit status
    run                one invocation; the objects of a run are made here
    serving            --serve
    template_reload    changes of the template of --template
    debugging          --api-only and --debug
    debugged_runtime   the program of a function process with --debug
    console            the terminal
    report_line        START, END and REPORT lines
    endpoints/         what callers reach: Function URLs and the Lambda API
    execution/         execution environments, their Runtime API, their pool and their time limits
    deployment/        the function's configuration, its code and layers
    sandbox/           processes that never outlive the emulator
    http1/             HTTP/1.1 for a server

Allowed imports: each folder may import those below it in this list, and `tools.common`; `execution` also imports
`console` and `report_line`. Only the standard library is needed.

Modules that only some runs need are imported in functions. Each such import has a comment with the reason: `main.py`
starts in about 100 ms, half of which is compiling these files, because it writes no bytecode into the checkout.
"""
