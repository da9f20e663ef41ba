import asyncio
import json
import signal
import sys

import torch

from lifter import StreamBatch
from lifter._errors import message
from lifter._io import in_folder, whole
from lifter._weights import LIVE as LIVE_WEIGHTS
from lifter._weights import weights_path
from lifter.inference.server import Form, Server

from ._model import model_of

SMALL = 20_000_000  # bytes of weights; a call of so few is sooner done by one thread than shared out, above all under load
# Frames lifted together by default: a pose comes 0.2 s after its frame at the latest; a whole window would take 1.6 s.
LIVE = 9


def run(args) -> int:
    try:
        return asyncio.run(_serve(args))
    except (ValueError, TypeError, KeyError, RuntimeError, OSError) as error:
        print(f"lifter stream: {message(error)}", file=sys.stderr)
        return 1


async def _serve(args) -> int:
    if args.checkpoint is None and args.model is None:
        args.checkpoint = LIVE_WEIGHTS
    model = model_of(args).load()
    if args.threads is not None and args.threads < 1:
        raise ValueError(f"--threads is {args.threads}, expected a positive number")
    if args.summary:
        in_folder(args.summary)  # before it is all done
    small = weights_path(args.checkpoint).stat().st_size < SMALL
    torch.set_num_threads(args.threads or (1 if small else torch.get_num_threads()))
    options = args.fps, args.look_ahead, args.missing
    batch = StreamBatch(model, args.chunk_size, *options)
    if args.chunk_size is None and batch.chunk_size > LIVE and not batch.stateful:
        batch = StreamBatch(model, LIVE, *options)
    server = Server(batch, Form(model.in_channels, args.size, args.layout, args.variant), args.strict, args.drop, args.token)

    loop = asyncio.get_running_loop()
    stopped = loop.create_future()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, lambda: stopped.done() or stopped.set_result(None))
    if args.listen is None:
        await server.standard(stopped)
    else:
        ready = lambda address: print(f"listening on {address}", file=sys.stderr, flush=True)
        await server.listen(args.listen, stopped, ready)
    _report(server.statistics.summary(), args.summary)
    return 1 if args.strict and server.statistics.errors else 0


def _report(summary, path):
    times = (
        f"{kind.removesuffix('_ms')} {', '.join(f'{name} {value}' for name, value in summary[kind].items())} ms"
        for kind in ("latency_ms", "compute_ms")
        if summary["frames"]
    )
    counts = f"{summary['frames']} frames in {summary['seconds']} s ({summary['frames_per_second']} per second)"
    print("; ".join((counts, *times, f"{summary['errors']} bad lines")), file=sys.stderr)
    if path:
        with whole(path) as partly, partly.open("w") as file:
            json.dump(summary, file, indent=1)
