"""Commands of `gdah` that need no mount and no server: what they are called and take. The work is imported when it is
asked for, so that the others start as fast as before.
"""

from __future__ import annotations

import argparse
from typing import Any


def add_parsers(commands: Any) -> None:
    export = commands.add_parser(
        "export",
        help="plain files from a server's data folder, without a server",
        description="Write the tree of a server's data folder (or of a mount's cache) as plain files. Needs no server "
        "that runs, reads only, and goes on past what is damaged: what could not be written is listed, exit code 1.",
    )
    export.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="DIR",
        help="of a server; repeat it: the tree comes from the first that can be read, content from all",
    )
    export.add_argument("--cache-dir", action="append", default=[], metavar="DIR", help="of a mount: what it has")
    export.add_argument("--volume", metavar="NAME", help="which volume, if there are several")
    export.add_argument("--trash", action="store_true", help="removed files and earlier versions too, in .trash")
    export.add_argument("target", metavar="TARGET", help="a new or empty folder")
    export.set_defaults(run=_export)


def _export(flags: argparse.Namespace) -> int:
    from mountfs import tool_export  # noqa: PLC0415

    return tool_export.run(flags)
