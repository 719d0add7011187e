"""`.pth` files of the function and of its dependency layers.

The managed runtime processes them with `site.addsitedir`, so packages rely on them: setuptools (`distutils` on 3.12 and
later), namespace packages, encodings, editable installs. `site` is not used here, for two reasons. Its import takes
longer than the files themselves. And it prints an error as many lines, each of which would be an event of the log; here
an error is one event.

The rules are those of the module `site` (docs.python.org/3/library/site.html). A line that starts with `import` is
executed. Any other line is a path, relative to the folder of the file; it is appended to `sys.path` if it exists. After
an error, the rest of that file is skipped.
"""

import os
import sys

from streaming_runtime.log import describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from streaming_runtime.log import Log

VERSION = "0.1.0"


def process(folder: str, names: "list[str]", log: "Log") -> None:
    """Process `.pth` files in the order of their names, as `site` does. An error is logged, and is not raised."""
    for name in sorted(names):
        if name.startswith("."):  # hidden, as in `site` since 3.11.9
            continue
        path = os.path.join(folder, name)
        try:
            with open(path, encoding="utf-8-sig") as file:
                lines = file.read().splitlines()
            for number, line in enumerate(lines, 1):
                process_line(folder, path, number, line)
        except Exception as error:
            log.error(describe(error, f"the file {path}"))


def process_line(sitedir: str, path: str, number: int, line: str) -> None:
    """Execute or add one line.

    Args:
        sitedir: the folder. Files of namespace packages read the variable of this name from the frame of their caller.
    """
    if not line.strip() or line.startswith("#"):
        return
    if line.startswith(("import ", "import\t")):
        exec(compile("\n" * (number - 1) + line, path, "exec"))  # so that a traceback shows the file and the line
        return
    added = os.path.abspath(os.path.join(sitedir, line.rstrip()))
    if os.path.exists(added) and added not in map(os.path.abspath, sys.path):
        sys.path.append(added)
