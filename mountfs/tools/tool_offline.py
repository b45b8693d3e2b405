"""Commands of `gdah` that need no mount and no server: what they are called and take. The work is imported when it is
asked for, so that the others start as fast as before.
"""

from __future__ import annotations

import argparse
import os
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
    _fsck_parser(commands)
    _drill_parser(commands)


def _fsck_parser(commands: Any) -> None:
    fsck = commands.add_parser(
        "fsck",
        help="is a server's data folder, or a mount's cache, sound? mend it",
        description="Check the database, the log, the tree and every chunk of a server (--data DIR) or of a mount (DIR "
        "or --cache-dir DIR). While it runs: reads only. Exit code 0: sound; 1: damage was found.",
    )
    fsck.add_argument("dir", nargs="?", metavar="DIR", help="the folder of a mount that this machine knows")
    fsck.add_argument("--data", metavar="DIR", help="the data folder of a server")
    fsck.add_argument("--cache-dir", metavar="DIR", help="the cache folder of a mount")
    fsck.add_argument("--volume", metavar="NAME", help="only this volume")
    fsck.add_argument("--repair", action="store_true", help="mend what can be mended; it must be stopped")
    fsck.add_argument("--peer", metavar="URL", help="another server, to compare with and to fetch from")
    fsck.add_argument("--token-file", metavar="FILE", default=os.environ.get("GDAH_TOKEN_FILE"), help="of that server")
    fsck.add_argument("--json", action="store_true", help="as JSON")
    fsck.set_defaults(run=_fsck)


def _drill_parser(commands: Any) -> None:
    drill = commands.add_parser(
        "drill",
        help="a fire drill: try to lose something on a scratch cluster",
        description="Start servers and mounts in a new folder and on ports of their own, let programs write, break "
        "what can break, and prove that nothing is lost. It never touches servers, mounts or data of yours: there is "
        "no option that names one. Exit code 0: nothing was found; 1: something was; 3: the drill proved nothing.",
    )
    drill.add_argument("--seed", type=int, metavar="N", help="the same drill again (default: a new one)")
    drill.add_argument("--seconds", type=float, default=60.0, metavar="N", help="how long faults come (60)")
    drill.add_argument("--servers", type=int, default=2, choices=(2, 3), help="default 2")
    drill.add_argument("--mounts", type=int, default=2, choices=(2, 3, 4), help="default 2")
    drill.add_argument("--workers", type=int, default=10, metavar="N", help="programs that write (10)")
    drill.add_argument("--faults", default="all", metavar="KINDS", help="with commas; 'help' lists them (all)")
    drill.add_argument(
        "--rounds", type=int, default=1, metavar="N", help="so many drills, with the seeds that follow (1)"
    )
    drill.add_argument("--keep", metavar="DIR", help="a new folder for everything, which stays there")
    drill.add_argument("--json", metavar="FILE", help="the reports as JSON, one line a round")
    drill.set_defaults(run=_drill)


def _drill(flags: argparse.Namespace) -> int:
    from gdah_drill import cli  # noqa: PLC0415

    return cli.run(flags)


def _fsck(flags: argparse.Namespace) -> int:
    from mountfs.tools import tool_fsck  # noqa: PLC0415

    return tool_fsck.run(flags)


def _export(flags: argparse.Namespace) -> int:
    from mountfs.tools import tool_export  # noqa: PLC0415

    return tool_export.run(flags)
