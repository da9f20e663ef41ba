"""The `lifter` command."""

import argparse
import importlib
import sys

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
    return command.run(args)


if __name__ == "__main__":
    sys.exit(main())
