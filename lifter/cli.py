"""The `lifter` command."""

import argparse
import sys

from lifter.commands import data, detect, export, info, models, stream, verify

COMMANDS = {
    "info": info, "models": models, "data": data, "detect": detect, "stream": stream, "export": export, "verify": verify,
}  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="lifter", description="3D human pose lifting.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        subparser = commands.add_parser(name, help=command.HELP)
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    args = parser.parse_args(argv)
    return args.run(args)


if __name__ == "__main__":
    sys.exit(main())
