"""Optional packages: how to install what is missing."""

from contextlib import contextmanager
from pathlib import Path

IS_CLONE = (Path(__file__).parents[1] / "pyproject.toml").is_file()


def install_command(extra: str) -> str:
    """Return the command that installs an extra of this package, from the clone if lifter runs from one."""
    return f'pip install -e ".[{extra}]"' if IS_CLONE else f'pip install "pose-lifter[{extra}]"'


@contextmanager
def needs(extra: str, who: str):
    """Name the extra to install when an import inside fails: ImportError "`who` needs PACKAGE: pip install ..."."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = error.name.partition(".")[0]
        raise ImportError(f"{who} needs {package}: {install_command(extra)}", name=package) from error
