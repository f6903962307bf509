"""The command line: `python -m funcnet show STORE`."""

import argparse
import io
import os
import sys
from collections.abc import Sequence

from funcnet.page import write_page
from funcnet.sweeps.files import StoreInUse
from funcnet.sweeps.show import GONE, described, follow, look, printable

_ENDED_WELL = ("finished", "out of time")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line. Returns the exit code: 0; 1 with a message on standard error; argparse exits with 2 for a wrong one."""
    parser = argparse.ArgumentParser(prog="python -m funcnet", description="Looks at what sweeps have stored.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    shown = commands.add_parser(
        "show",
        help="show a stored sweep, running or finished",
        description="Shows a sweep that is stored in a folder, also while it trains. Nothing in the folder is changed.",
    )
    shown.add_argument("store", metavar="STORE", help="the folder of sweep(..., store=STORE)")
    shown.add_argument("--html", metavar="FILE", help="also write one page to look at in a browser, with pictures")
    shown.add_argument("--follow", action="store_true", help="go on with each event as it happens, until the sweep ends or Ctrl-C")
    asked = parser.parse_args(arguments)
    if asked.command is None:
        parser.print_help()
        return 0
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may lack a letter
    try:
        return _show(asked.store, asked.html, asked.follow)
    except BrokenPipeError:  # the reader has closed its end, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _fails(str(error.strerror if error.filename is not None else error))
    except (ValueError, StoreInUse) as error:
        return _fails(str(error))


def _show(store: str, html: str | None, follows: bool) -> int:
    view = look(store)
    print(described(view), flush=True)
    if html is not None:
        write_page(view, html)
        print(f"\nwritten: {printable(html)}", flush=True)
    if not follows or view.over:
        return 0
    print("", flush=True)
    try:
        ended = follow(store, view.after, lambda line: print(line, flush=True))
    except KeyboardInterrupt:
        return 0
    if html is not None:
        write_page(look(store), html)
    if ended == GONE:
        return _fails("show: its process has gone without a word; the same call goes on from the last snapshot")
    return 0 if ended in _ENDED_WELL else 1


def _fails(message: str) -> int:
    print(printable(message), file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
