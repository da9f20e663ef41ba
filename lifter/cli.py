"""The `lifter` command. Each subcommand imports what it needs when it runs."""

import argparse
import os
import sys

from lifter._library import BACKENDS


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="lifter", description="3D human pose lifting.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    commands.add_parser("info", help="versions, and which kernels run here").set_defaults(run=_info)
    commands.add_parser("models", help="the models that create_model knows").set_defaults(run=_models)

    verify = commands.add_parser("verify", help="compare with what the official code computed")
    verify.add_argument("files", nargs="+", metavar="FILE", help="npz of official weights, inputs and outputs")
    verify.add_argument("--backend", choices=BACKENDS, help="default: what a call on the CPU takes")
    verify.add_argument(
        "--dtype", choices=("float32", "float64", "bfloat16", "float16"), default="float32",
        help="of weights and inputs; float64 runs on the reference",
    )  # fmt: skip
    verify.add_argument(
        "--tol", type=float,
        help="largest absolute difference (default: 1e-4 or 1e-5 for models, 1e-5 for units; 16-bit dtypes: at least "
        "16 eps, units 4 eps, times the largest output)",
    )  # fmt: skip
    verify.set_defaults(run=_verify)

    args = parser.parse_args(argv)
    return args.run(args)


def _info(args) -> int:
    from lifter.info import report

    print(report())
    return 0


def _models(args) -> int:
    from lifter import list_models

    models = list_models()
    width = max(map(len, models)) + 2
    for name, line in models.items():
        print(f"{name:<{width}}{line}")
    return 0


def _verify(args) -> int:
    import torch

    if args.backend == "triton" and not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")  # triton reads it when it is first imported
    from lifter.verify import verify

    failed = 0
    for path in args.files:
        for result in verify(path, args.backend, args.dtype, args.tol):
            print(result, flush=True)
            failed += not result.passed
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
