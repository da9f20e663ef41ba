"""The exponentials of a GPU: as many as asked, in registers, and nothing else."""

import torch
import triton
import triton.language as tl

BLOCK, STEPS = 1024, 32


@triton.jit
def _kernel(out, seed, STEPS: tl.constexpr, BLOCK: tl.constexpr):
    lanes = tl.arange(0, BLOCK)
    x = seed * (lanes + 1).to(tl.float32)
    for _ in range(STEPS):
        x = tl.exp2(x) - 1.5  # stays in -1.5..0
    tl.store(out + tl.program_id(0) * BLOCK + lanes, x)


def exponentials(count: int, device="cuda") -> torch.Tensor:
    programs = triton.cdiv(count, BLOCK * STEPS)
    out = torch.empty(programs * BLOCK, device=device)
    _kernel[(programs,)](out, -1e-4, STEPS, BLOCK, num_warps=4)
    return out
