"""`shipworthy audit witness`: what it takes. What it does is in `shipworthy.app.commands.witnessing`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def witness(
    folder: Annotated[
        Path, typer.Option("--dir", help="Where the checkpoints are kept: a file for each name.")
    ],
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where to listen; port 0 is a free one.")
    ] = "127.0.0.1:8460",
    accept: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            help="A public key that may sign logs which another one signed before: after a rotation. May be given "
            "several times.",
        ),
    ] = None,
    cert: Annotated[Path | None, typer.Option(help="A certificate (PEM), for TLS without a proxy.")] = None,
    key: Annotated[Path | None, typer.Option(help="Its key (PEM), where that is another file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> int:
    """Keep the checkpoints of others' audit logs, until SIGTERM or Ctrl-C: HttpAnchor sends them. It checks each
    signature, and takes none back.

    Requests must have the token that SHIPWORTHY_WITNESS_TOKEN says, if it is set. With --json: {"witness": ...} once it
    listens.
    """
    from shipworthy.app.commands.witnessing import Request, serve

    return serve(
        Request(
            listen=listen,
            folder=folder,
            accept=tuple(accept or ()),
            certificate=cert,
            key=key,
            as_json=as_json,
        )
    )
