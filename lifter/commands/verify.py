import os

import torch


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
