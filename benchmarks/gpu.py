"""Figures of a call that only a GPU has: the times of the launching thread and of the device, and the call as a CUDA graph."""

import torch

from lifter._errors import first_line

from .accuracy import error, tolerance
from .timing import launched, milliseconds

COLUMNS = [("host", "host", milliseconds), ("device", "device", milliseconds), ("graph", "graph", milliseconds)]
NOTES = [
    "On a GPU, host: of the thread that launches, to the last launch; device: from the first kernel to the last, everything "
    "being launched before the first begins (not quite of a call of more than about a thousand launches, which no queue "
    "holds); graph: a replay of the captured call, or the note says why there is none.",
]


def apart(call, seconds, dtype, device) -> dict:
    """host, device and graph of a call, seconds per call; `graph_note` if it cannot be captured or gives something else.

    `seconds`: what a call takes, about. {} on a CPU.
    """
    if not str(device).startswith("cuda"):
        return {}
    repeats = max(1, min(20, round(1e-3 / seconds)))
    host, on_device = launched(call, repeats, seconds)
    found = {"host": host, "device": on_device}
    try:
        replay, output = captured(call)
        expected = call()
        replay()
        if (off := error(output, expected)) > tolerance(dtype):
            found["graph_note"] = f"WRONG IN A GRAPH: {off:.1e}"
        found["graph"] = launched(replay, repeats, seconds)[1]
    except Exception as failure:  # whatever it is, the call is no graph
        torch.cuda.synchronize()
        found["graph_note"] = f"no graph: {first_line(failure)}"
    return found


def captured(call):
    """A call as a CUDA graph: what replays it, and its output, which every replay writes anew."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
        # What waits for the device must fail here: after a capture that fails, this process can do no other.
        torch.cuda.set_sync_debug_mode("error")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = call()
    return graph.replay, output
