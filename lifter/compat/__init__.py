"""The modules that other projects import, on lifter's kernels: mamba-ssm's, VMamba's and causal-conv1d's, where missing.

    import lifter.compat
    lifter.compat.install()          # before importing the project
    import selective_scan_cuda_core  # PoseMamba, SasMamba, VMamba and their kin run unmodified, on a CPU too

`install` adds a finder that is asked last of all: these modules, files of the folder `modules`, are found only where no
original is installed, and by `importlib.util.find_spec` as well. Nothing is patched.

transformers (from 5) takes the functions of `mamba_ssm` and `causal_conv1d` when it imports a model's file, so that
Mamba, Mamba2, Jamba, Bamba and their kin are fast if `install` came first. Older versions ask for CUDA before they look,
and a model that exists already keeps what it took: `lifter.optimize(model)` swaps its mixers instead.

Not here: norms with a residual, complex A (TypeError). No distribution of these names appears in
`importlib.metadata`; versions carry the local label "+lifter".
"""

import importlib.util
import os
import sys
from importlib.machinery import PathFinder

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "modules")
NAMES = (
    "causal_conv1d", "causal_conv1d_cuda", "mamba_ssm", "selective_scan_cuda", "selective_scan_cuda_core",
    "selective_scan_cuda_oflex",
)  # fmt: skip
_overridden: dict[str, object] = {}  # modules that were imported before `install(override=True)`


def install(override=False) -> dict[str, str]:
    """Make the missing ones of `NAMES` importable, and say what was done. A second call changes nothing but `override`.

    Args:
        override: take lifter's even where an original is installed or imported. Who holds an original keeps it.

    Returns:
        {name: "provided by lifter", or "left: " and where the original is}.
    """
    if _Finder in sys.meta_path:
        sys.meta_path.remove(_Finder)
    sys.meta_path.insert(0 if override else len(sys.meta_path), _Finder)
    if override:
        _overridden.update((name, sys.modules.pop(name)) for name in _imported(ours=False))
    report = {}
    for name in NAMES:
        report[name] = "provided by lifter" if _is_ours(name) else f"left: {_origin(name)} is there"
    return report


def uninstall() -> None:
    """Undo `install`, for what is imported from now on."""
    if _Finder in sys.meta_path:
        sys.meta_path.remove(_Finder)
    for name in _imported(ours=True):
        del sys.modules[name]
    sys.modules.update(_overridden)
    _overridden.clear()


class _Finder:
    """Finds the modules of `NAMES` in `FOLDER`; what is inside a package, Python finds itself."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        return PathFinder.find_spec(name, [FOLDER]) if name in NAMES else None


def _origin(name):
    """The file that an import of `name` would run, or has run."""
    module = sys.modules.get(name)
    spec = getattr(module, "__spec__", None) if module else importlib.util.find_spec(name)
    return getattr(spec, "origin", None) or "a module without a file"


def _is_ours(name):
    return _origin(name).startswith(FOLDER + os.sep)


def _imported(ours):
    """Imported modules of `NAMES`, with what is inside them, of lifter or of somebody else."""
    return [name for name in sys.modules if name.split(".")[0] in NAMES and _is_ours(name) == ours]
