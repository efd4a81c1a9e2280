"""Where `tinyfaces serve` and `tinyfaces review` listen."""

import errno
import socket
from typing import Annotated, TypeAlias

import typer

from tinyfaces.cli.options import fail
from tinyfaces.parsing.texts import reason

SERVER = "Server"
"""A group of options in the help text."""

Port: TypeAlias = Annotated[
    int, typer.Option(min=0, max=65535, rich_help_panel=SERVER, help="Port to listen on; 0 takes a free one.")
]


def listening_on(host: str, port: int) -> socket.socket:
    """A listening socket (needs the extra `serve`). Ends the command where there can be none."""
    from tinyfaces.service.server import listen

    try:
        return listen(host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            fail(f"port {port} is already in use")
        fail(f"cannot listen on {host}:{port} ({reason(error).lower()})")
