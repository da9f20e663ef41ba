"""Errors in one line, for those who report them and go on."""


def message(error) -> str:
    """Return what an error says in one line."""
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    return " ".join(str(text).split())


def first_line(error) -> str:
    """Return the kind of an error and the first line of what it says."""
    return f"{type(error).__name__}: {error}".splitlines()[0]
