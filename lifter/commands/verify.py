import os

import torch

from lifter._library import BACKENDS


def add_arguments(parser):
    parser.add_argument("files", nargs="+", metavar="FILE", help="npz of official weights, inputs and outputs")
    parser.add_argument("--backend", choices=BACKENDS, help="default: what a call on the CPU takes")
    parser.add_argument(
        "--dtype", choices=("float32", "float64", "bfloat16", "float16"), default="float32",
        help="of weights and inputs; float64 runs on the reference. In 16 bit models are judged by 99 of 100 outputs",
    )  # fmt: skip
    parser.add_argument(
        "--tol", type=float,
        help="largest absolute difference (default: 1e-4 or 1e-5 for models, 1e-5 for units; 16-bit dtypes: at least "
        "16 eps, units 4 eps, times the largest output)",
    )  # fmt: skip


def run(args) -> int:
    if args.backend == "triton" and not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")  # triton reads it when it is first imported, as the kernels do
    from lifter.verify import verify

    failed = 0
    for path in args.files:
        for result in verify(path, args.backend, args.dtype, args.tol):
            print(result, flush=True)
            failed += not result.passed
    return 1 if failed else 0
