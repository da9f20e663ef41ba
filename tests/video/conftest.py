"""Videos of a few small frames, and a detector that knows what is in them."""

import numpy as np
import pytest

SIZE = (64, 48)


@pytest.fixture
def film(tmp_path):
    """film(name, times): write a video at these times in units of 1/100 s, its frames red in the upper left corner."""
    av = pytest.importorskip("av")

    def write(name="walk.mp4", times=range(0, 40, 4)):
        path = tmp_path / name
        with av.open(path, "w", options={"movflags": "faststart"} if path.suffix == ".mp4" else {}) as container:
            stream = container.add_stream("mpeg4", rate=100)
            stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
            image = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
            image[:16, :16, 0] = 255
            for time in times:
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts = time
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path

    return write


def damage(path, is_cut=False):
    """Break an mp4 in the middle of its pictures: what follows is not there, or zeros."""
    data = path.read_bytes()
    middle = (data.index(b"mdat") + len(data)) // 2
    path.write_bytes(data[:middle] if is_cut else data[:middle] + bytes(len(data) - middle))


def body(number, at=20.0, score=0.9, size=12.0):
    """COCO's 17 keypoints of somebody who walks to the right."""
    xy = np.random.default_rng(3).uniform(0, size, (17, 2)) + (at + 0.3 * number, 10)
    return np.column_stack((xy, np.full(17, score)))


class Knows:
    """A detector that finds what `of(number of the frame)` tells."""

    name, package, layout = "knows", "knows", "coco"

    def __init__(self, of):
        self.of = of

    def reset(self):
        self.number = -1

    def __call__(self, image, seconds):
        self.number += 1
        return self.of(self.number)
