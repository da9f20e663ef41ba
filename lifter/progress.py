"""Progress of a command: a bar of rich on a terminal if rich is installed, else a line now and then."""

import sys
import time

SECONDS = 10.0  # from line to line


class Progress:
    """`with Progress("files", total) as progress: progress.step()`, on stderr; a total of None is not known."""

    def __init__(self, what, total):
        self.what, self.total, self.done, self.first, self.bar = what, total, 0, 0, None
        self.began = self.told = time.monotonic()

    def __enter__(self):
        if sys.stderr.isatty():
            try:
                from rich import progress
                from rich.console import Console
            except ImportError:
                return self
            columns = (progress.BarColumn(), progress.MofNCompleteColumn(), progress.TextColumn("{task.description}"))
            speed = progress.TextColumn("{task.fields[speed]}")
            self.bar = progress.Progress(*columns, speed, progress.TimeRemainingColumn(), console=Console(stderr=True))
            self.bar.start()
            self.task = self.bar.add_task(self.what, total=self.total, speed="")
        return self

    def __exit__(self, *_):
        if self.bar:
            self.bar.stop()

    def step(self, by=1, more=""):
        """`more`: what else there is to say, as ", 12 sequences"."""
        self.done += by
        now = time.monotonic()
        speed = (self.done - self.first) / max(now - self.began, 1e-9)
        if by and not self.first:  # what came before it does not count any more
            self.first, self.began = self.done, now
        if self.bar:
            self.bar.update(self.task, advance=by, description=f"{self.what}{more}", speed=f"{speed:.3g} a second")
        elif now - self.told >= SECONDS:
            self.told = now
            total = "?" if self.total is None else self.total
            left = f", {(self.total - self.done) / speed:.0f} s left" if self.total is not None and speed else ""
            print(f"{self.done} of {total} {self.what}{more}, {speed:.3g} a second{left}", file=sys.stderr, flush=True)
