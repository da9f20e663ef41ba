"""Notices beside a result: one line, as a warning, for each assumption and for each part that was left out."""

import sys
import warnings
from contextlib import contextmanager

from lifter._errors import message


class Notice(UserWarning):
    """An assumption, or something that was left out."""


def notice(text):
    """Say `text`, which names the file."""
    warnings.warn(text, Notice, stacklevel=3)


@contextmanager
def told(say=lambda text: print(f"lifter: {text}", file=sys.stderr, flush=True)):
    """Give the text of each notice to `say`; by default it is a line on stderr."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def tell(text, category, *where, **more):
            say(str(text)) if issubclass(category, Notice) else show(text, category, *where, **more)

        warnings.simplefilter("always", Notice)
        warnings.showwarning = tell
        yield


class Items:
    """The items of a file, read one by one: a bad one does not lose the rest.

    `with items.one(): ...` reads an item, and `items.end()` says how many were bad, or raises the first error if all were.
    """

    def __init__(self, path, what="entries"):
        self.path, self.what, self.count, self.errors = path, what, 0, []

    @contextmanager
    def one(self):
        self.count += 1
        try:
            yield
        except (ValueError, KeyError) as error:
            self.errors.append(error)

    def end(self):
        if self.errors and len(self.errors) == self.count:
            raise self.errors[0]
        if self.errors:
            first = message(self.errors[0])
            notice(f"{self.path}: {len(self.errors)} of {self.count} {self.what} left out; the first: {first}")
