"""Loads the compiled kernels. Never raises for a library that is missing or does not load: `reason` says why not."""

import importlib.util
import os
import sysconfig
from pathlib import Path

import torch

BACKENDS = ("reference", "cpu", "triton", "cuda")  # here, where the command line can name them before any op exists

loaded = False
reason = ""
_C = None  # the pybind11 module: build information and CPU capability


def _load():
    folder = Path(os.environ.get("LIFTER_LIBRARY_DIR") or Path(__file__).parent)  # elsewhere: a sanitizer build
    ops = folder / "liblifter_ops.so"
    bindings = folder / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
    failure = folder / "_build_failure.txt"
    if failure.exists():
        # --no-cache-dir: pip may have kept the wheel of the failed build
        raise ImportError(
            f"the build of the C++ kernels failed: {failure.read_text().strip()} "
            "(once mended, reinstall with pip's --no-cache-dir)"
        )
    for file in (ops, bindings):
        if not file.exists():
            raise ImportError(f"the C++ kernels are not built for this Python: no {file.name}; reinstall lifter")
    torch.ops.load_library(str(ops))
    spec = importlib.util.spec_from_file_location("lifter._C", bindings)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # Having freed one block of this size, glibc keeps what tensors free for the next call; else the system takes the pages
    # back and clears them again, a tenth of SasMamba's time. It only reserves: no page is touched.
    torch.empty(31 << 20, dtype=torch.uint8, device="cpu")
    return module


try:
    _C = _load()
    loaded = True
except (ImportError, OSError, RuntimeError) as error:
    reason = str(error)

if loaded and (_wanted := os.environ.get("LIFTER_CPU_CAPABILITY")):
    try:
        _C.set_cpu_capability(_wanted)
    except ValueError as error:
        raise ValueError(f"LIFTER_CPU_CAPABILITY: {error}") from None
