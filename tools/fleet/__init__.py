"""Publishes the layer, and rolls its versions out to many functions: what `build.sh` has for accounts of AWS.

`plan` knows no AWS, `journal` no plan; `aws`, `functions` and `layers` alone call the service.
"""

from tools.common.errors import ToolError


class FleetError(ToolError):
    """Something cannot be done; the text is one line that names the cause and the next step."""


class UsageError(FleetError):
    """The command line asks for what makes no sense."""
