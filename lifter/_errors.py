"""Errors in one line, for those who report them and go on."""


def message(error) -> str:
    """Return what an error says in one line."""
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    return " ".join(str(text).split())
