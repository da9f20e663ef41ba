import asyncio
import json
import signal
import sys
from pathlib import Path

import torch

from lifter import StreamBatch
from lifter._errors import message
from lifter._io import in_folder, whole
from lifter.inference.server import Form, Server
from lifter.pretrained import SHIPPED

from ._model import add_model_options, model_of
from .data import parse_size

SMALL = 20_000_000  # bytes of weights; a call of so few is sooner done by one thread than shared out, above all under load


def add_arguments(parser):
    add_model_options(parser)
    parser.add_argument("--listen", metavar="ADDRESS", help="HOST:PORT, or the path of a Unix socket; default: standard input")
    parser.add_argument("--size", type=parse_size, metavar="WxH", help="of the image, for pixels; default: normalised")
    parser.add_argument("--layout", help="of a detector's joints; default: in pixels by their number, else h36m")
    parser.add_argument("--variant", help="of the conversion to Human3.6M: mmpose, mhformer, motionbert")
    parser.add_argument("--chunk-size", type=int, metavar="N", help="frames lifted together; default: what the model sees")
    parser.add_argument("--look-ahead", type=int, default=0, metavar="N", help="frames that a chunk waits for besides")
    parser.add_argument("--missing", default="hold", help="hold, mask or error: see lifter.Stream")
    parser.add_argument("--fps", type=float, default=50.0, help="frames per second; default: 50")
    parser.add_argument(
        "--drop", action="store_true", help="overloaded, drop a client's oldest frames; default: answers are late"
    )
    parser.add_argument("--token", metavar="WORD", help='what clients must send first, {"token": "WORD"}')
    parser.add_argument("--threads", type=int, metavar="N", help="of the CPU; default: one for small models, else all")
    parser.add_argument("--strict", action="store_true", help="end at the first bad line, with exit status 1")
    parser.add_argument("--summary", metavar="FILE", help="write what is printed at the end as JSON")


def run(args) -> int:
    try:
        return asyncio.run(_serve(args))
    except (ValueError, TypeError, KeyError, RuntimeError, OSError) as error:
        print(f"lifter stream: {message(error)}", file=sys.stderr)
        return 1


async def _serve(args) -> int:
    model = model_of(args).load()
    if args.threads is not None and args.threads < 1:
        raise ValueError(f"--threads is {args.threads}, expected a positive number")
    if args.summary:
        in_folder(args.summary)  # before it is all done
    small = Path(args.checkpoint or SHIPPED).stat().st_size < SMALL
    torch.set_num_threads(args.threads or (1 if small else torch.get_num_threads()))
    batch = StreamBatch(model, args.chunk_size, args.fps, args.look_ahead, args.missing)
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
