"""Optional packages: how to install what is missing."""

import importlib.util
from contextlib import contextmanager
from pathlib import Path

IS_CLONE = (Path(__file__).parents[1] / "pyproject.toml").is_file()


def install_command(extra: str) -> str:
    """Return the command that installs an extra of this package, from the clone if lifter runs from one."""
    return f'pip install -e ".[{extra}]"' if IS_CLONE else f'pip install "pose-lifter[{extra}]"'


def is_installed(package: str) -> bool:
    """Return whether a package could be imported."""
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # a stand-in that is no file
        return True


@contextmanager
def needs(extra: str, who: str, *packages: str):
    """Name the extra to install when an import inside fails, or one of `packages`, which are imported later, is missing:
    ImportError "`who` needs PACKAGE: pip install ..."."""
    try:
        for package in packages:
            if not is_installed(package):
                raise ModuleNotFoundError(name=package)
        yield
    except ModuleNotFoundError as error:
        package = error.name.partition(".")[0]
        raise ImportError(f"{who} needs {package}: {install_command(extra)}", name=package) from error
