"""Errors in one line, for those who report them and go on."""


def message(error) -> str:
    """Return what an error says in one line."""
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    return " ".join(str(text).split())


def located(error, where) -> str:
    """Return what an error says in one line, with the place if it does not name that itself."""
    text = message(error)
    if not isinstance(error, (ValueError, KeyError, OSError, ImportError)):
        text = f"{type(error).__name__}: {text}"
    return text if str(where) in text else f"{where}: {text}"


def first_line(error) -> str:
    """Return the kind of an error and the first line of what it says."""
    return f"{type(error).__name__}: {error}".splitlines()[0]
