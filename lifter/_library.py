"""Loads the compiled kernels. Never raises for a library that is missing or does not load: `reason` says why not."""

import ctypes
import os
from pathlib import Path

import torch

from ._filename import LIBRARY

BACKENDS = ("reference", "cpu", "triton", "cuda")

loaded = False
reason = ""
_C = None  # a Functions


class Functions:
    """The functions of the library that are not ops (csrc/bindings.cpp)."""

    def __init__(self, file):
        self._library = ctypes.CDLL(str(file))
        for name in ("build_info", "cpu_capability", "max_cpu_capability", "set_cpu_capability"):
            getattr(self._library, f"lifter_{name}").restype = ctypes.c_char_p
        self._library.lifter_time_exponentials.restype = ctypes.c_double

    def build_info(self) -> dict:
        """Return how the library was built."""
        info = dict(line.split("=", 1) for line in self._library.lifter_build_info().decode().splitlines())
        return {**info, "capabilities": info["capabilities"].split(","), "sanitize": info["sanitize"] == "1"}

    def cpu_capability(self) -> str:
        """Return the capability that kernels run with: baseline, avx2, ..."""
        return self._library.lifter_cpu_capability().decode()

    def max_cpu_capability(self) -> str:
        """Return the best capability of this machine and build."""
        return self._library.lifter_max_cpu_capability().decode()

    def set_cpu_capability(self, name: str):
        """Make kernels run with this capability; ValueError if this machine cannot."""
        if error := self._library.lifter_set_cpu_capability(name.encode()):
            raise ValueError(error.decode())

    def time_exponentials(self, count: int) -> float:
        """Return the seconds that the kernels' vector code takes for this many exponentials: the bound of a scan."""
        return self._library.lifter_time_exponentials(ctypes.c_int64(count))


def _load():
    folder = Path(os.environ.get("LIFTER_LIBRARY_DIR") or Path(__file__).parent)  # elsewhere: a sanitizer build
    file = folder / LIBRARY
    failure = folder / "_build_failure.txt"
    if failure.exists():
        # --no-cache-dir: pip may have kept the wheel of the failed build
        raise ImportError(
            f"the build of the C++ kernels failed: {failure.read_text().strip()} "
            "(once mended, reinstall with pip's --no-cache-dir)"
        )
    if not file.exists():
        raise ImportError(f"the C++ kernels are not built: no {file.name}; reinstall lifter")
    torch.ops.load_library(str(file))
    functions = Functions(file)
    # Having freed one block of this size, glibc keeps what tensors free for the next call; else the system takes the pages
    # back and clears them again, a tenth of SasMamba's time. It only reserves: no page is touched.
    torch.empty(31 << 20, dtype=torch.uint8, device="cpu")
    return functions


try:
    _C = _load()
    loaded = True
except (ImportError, OSError, RuntimeError, AttributeError) as error:  # AttributeError: a library of older sources
    reason = str(error)

if loaded and (_wanted := os.environ.get("LIFTER_CPU_CAPABILITY")):
    try:
        _C.set_cpu_capability(_wanted)
    except ValueError as error:
        raise ValueError(f"LIFTER_CPU_CAPABILITY: {error}") from None
