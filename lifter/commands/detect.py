import sys
from pathlib import Path

from lifter._errors import message
from lifter._extras import needs
from lifter.data import save
from lifter.data.detectors import sequence_of
from lifter.data.tracking import tracks

LEAST = 0.3  # mean score of a person; where nobody is, rtmlib looks for joints in the whole image


def add_arguments(parser):
    parser.add_argument("video", metavar="VIDEO")
    parser.add_argument("-o", "--out", required=True, metavar="NAME.npz")
    parser.add_argument("--mode", choices=("lightweight", "balanced", "performance"), default="balanced", help="of rtmlib")
    parser.add_argument("--backend", default="onnxruntime", help="of rtmlib: onnxruntime, opencv, openvino")
    parser.add_argument("--device", default="cpu", help="of rtmlib: cpu, cuda, mps")
    parser.add_argument("--variant", choices=("mmpose", "mhformer"), help="of the conversion to Human3.6M")


def run(args) -> int:
    try:
        with needs("detect", "lifter detect"):
            import av
            import rtmlib
    except ImportError as error:
        print(error, file=sys.stderr)
        return 1
    try:
        body = rtmlib.Body(mode=args.mode, backend=args.backend, device=args.device)
        with av.open(args.video) as video:
            count = _detect(body, video, args)
    except (ValueError, IndexError, OSError, RuntimeError) as error:
        print(f"lifter detect: {message(error)}", file=sys.stderr)
        return 1
    print(f"{args.out}: {count} people")
    return 0


def _detect(body, video, args) -> int:
    """Writes a sequence for every person; how many."""
    import numpy as np

    stream = video.streams.video[0]
    size, rate = (stream.width, stream.height), stream.average_rate
    detections = []
    for number, frame in enumerate(video.decode(stream)):
        for xy, scores in zip(*body(frame.to_ndarray(format="bgr24"))):
            if np.mean(scores) >= LEAST:
                detections.append((number, None, float(np.sum(scores)), np.column_stack((xy, scores)).astype(np.float64)))
    known = {"layout": "coco", "variant": args.variant, "size": size, "source": args.video, "fps": rate and float(rate)}
    people = tracks(detections, args.video).items()
    name = Path(args.video).stem
    return save(args.out, (sequence_of(f"{name}/{id}", x, start=first, **known) for id, (first, x) in people))
