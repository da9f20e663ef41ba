"""The `lifter` command."""

import importlib
import os
import sys

from lifter._notices import told
from lifter.commands import options


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["train"]:  # has its own parser
        return importlib.import_module("lifter.commands.train").main(argv[1:])
    args = options.parse(argv)
    # torch and other dependencies are imported only after the arguments have been checked.
    command = importlib.import_module(f"lifter.commands.{args.command}")
    try:
        with told():
            status = command.run(args)
            sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader of our output has gone, e.g. `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


if __name__ == "__main__":
    sys.exit(main())
