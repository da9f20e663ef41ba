"""The `lifter` command."""

import argparse
import sys

from lifter.commands import data, detect, eval, export, info, lift, models, render, stream, train, verify

COMMANDS = {
    "info": info, "models": models, "data": data, "detect": detect, "lift": lift, "stream": stream, "render": render,
    "eval": eval, "export": export, "verify": verify,
}  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["train"]:  # of another parser's, which reads configurations too
        return train.main(argv[1:])
    parser = argparse.ArgumentParser(prog="lifter", description="3D human pose lifting.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        subparser = commands.add_parser(name, help=command.HELP)
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    commands.add_parser("train", help=train.HELP)
    args = parser.parse_args(argv)
    return args.run(args)


if __name__ == "__main__":
    sys.exit(main())
