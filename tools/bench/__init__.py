"""Measures a built layer: `./build.sh bench`.

The layer is measured beside other programs: awslambdaric (the Runtime API client of the managed runtimes), a client in
C, a runtime of a few lines, or another version of the layer. Only ratios between programs that run in the same minute
on the same machine are meaningful; times are reported with the machine.

Reading order:
    cli                    options, the order of the work, the exit status
    measurements           the default measurements, and the limit of each figure
    application_measurements   the same for web applications
    concurrency_measurements   the same for many invocations at once
    baseline_measurements  the measurements of --baseline, and their limit
    bench                  rounds: each program in turn, in a process of its own
    function_process       one process of a program, connected to a Runtime API of its own
    programs               the programs: commands, and building what they need
    layers                 a layer from this checkout, a zip, a folder or a git revision, unpacked as under /opt
    applications           web applications, and the programs that serve them
    web_server             one process of a web server
    receiver               one environment with many slots, and the receiver of all its responses
    interpreters           a Python to measure, and packages for it
    local_url              `main.py` as its users start it
    cpu_share              the processor share of a memory setting
    machine                the machine
    measurement            samples, ratios of pairs, limits and verdicts
    statistics             quantiles, and the confidence interval of a median
    report, markdown, chart   the table, JSON, Markdown and SVG

Programs that run beside Python code, independent of the layer: `server.c` (the Runtime API; `server.py` replaces it
where there is no compiler), `client.c`, `minimal_runtime.py`, and the functions in `functions/`.

Allowed imports: the standard library, `tools.common` and `tools.bench`. The layer is built by `build.sh`, as a user
builds it.
"""
