"""The `lifter` command."""

import argparse
import importlib
import os
import sys

from lifter._notices import told
from lifter.commands import COMMANDS


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    # Only the module of the command that runs is imported: no other command has to wait for what it needs.
    command = importlib.import_module(f"lifter.commands.{argv[0]}") if argv and argv[0] in COMMANDS else None
    if hasattr(command, "main"):  # a parser of its own
        return command.main(argv[1:])
    parser = argparse.ArgumentParser(prog="lifter", description="3D human pose lifting.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, help in COMMANDS.items():
        subparser = commands.add_parser(name, help=help)
        if command and name == argv[0]:
            command.add_arguments(subparser)
    args = parser.parse_args(argv)
    try:
        with told():
            status = command.run(args)
            sys.stdout.flush()
        return status
    except BrokenPipeError:  # who read our output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


if __name__ == "__main__":
    sys.exit(main())
