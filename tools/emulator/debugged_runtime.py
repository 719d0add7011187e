"""The program of a function process with `--debug`: `python debugged_runtime.py NAME PORT RUNTIME`.

`python -m debugpy` would do the same, but it does not announce when an editor can attach. One that attaches before the
process has connected to the debug adapter loses its connection, and the adapter ends. The line on standard error comes
after that, so a person or a task of an editor can wait for it.
"""

from __future__ import annotations

import os
import runpy
import sys


def main(name: str, port: str, runtime: str) -> None:
    sys.path[0] = os.path.dirname(runtime)  # as without a debugger; the folder of this file is there
    import debugpy  # of the function's interpreter; it finds its own files beside the function's

    try:
        debugpy.listen(("127.0.0.1", int(port)))
    except (OSError, RuntimeError) as error:
        sys.exit(f"error: debugpy cannot listen on 127.0.0.1:{port} ({error}); choose another port with --debug")
    print(f"{name} waits for a debugger on 127.0.0.1:{port}", file=sys.stderr, flush=True)
    debugpy.wait_for_client()
    sys.argv = [runtime]
    runpy.run_path(runtime, run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
