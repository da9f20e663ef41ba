"""Files that are small and want to be much: python -m tests.hostile tells what each of them costs.

`write` makes them, `read` reads one as the `lifter` command would, `costs` does that in another process.
"""

import gzip
import io
import json
import multiprocessing
import os
import pickle
import re
import socket
import struct
import sys
import tempfile
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch

import lifter
from lifter.data import open_data
from lifter.data.outputs import write as save
from lifter.data.registry import detect, options_of
from lifter.data.synthetic import open_gait
from lifter.verify import verify

SECONDS, MEGABYTES = 1.0, 100.0
WEIGHTS = (".pt", ".safetensors")


class Run:
    """Pickled, it asks the reader to call a function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


# ---- pickles ---------------------------------------------------------------------------------------------------------


def pickles():
    text = b"X" + struct.pack("<I", 200_000) + b"a" * 200_000
    twice = b"".join(b"q%c" % i + b"h%c" % i + b"\x86" for i in range(40))  # tuples, each twice the one before
    lists = b"]q\0" + b"".join(b"]q%c(h%ch%ce" % (i, i - 1, i - 1) for i in range(1, 60))
    return {
        "memo": b"\x80\x02Kar\xff\xff\xff\x7f.",
        "bytes": b"\x80\x05\x8e" + struct.pack("<Q", 1 << 40) + b".",
        "bytearray": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b".",
        "calls": b"\x80\x02c__builtin__\nbytearray\n\x8a\x05\0\0\0\0\x20\x85R.",
        "tuples": b"\x80\x02}K\1" + twice + b"K\2s.",
        "references": b"\x80\x02" + lists + b".",
        "copies": b"\x80\x02]q\0" + text + b"q\1" + b"c_codecs\nencode\nh\1\x85R0" * 20_000 + b".",
        "deep": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
        "integer": b"\x80\x02\x8b" + struct.pack("<i", 0x7FFFFFFF) + b"\xff",
        "digits": b"I" + b"9" * 1_000_000 + b"\n.",
        "frame": b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"N.",
        "self": b"\x80\x02]q\0h\0a.",
        "evil": pickle.dumps(Run(os.system, "false")),
    }


def tensor(count, shape, stride, number=0, name="linear.weight"):
    """A pickle of {name: a tensor of these claims}."""
    whole = lambda n: b"\x8a\x08" + struct.pack("<q", n)
    numbers = lambda values: b"(" + b"".join(map(whole, values)) + b"t"
    word = lambda text: b"X" + struct.pack("<I", len(text)) + text
    storage = b"(" + word(b"storage") + b"ctorch\nFloatStorage\n" + word(b"0") + word(b"cpu") + whole(count) + b"tQ"
    made = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + whole(number) + numbers(shape) + numbers(stride) + b"\x89NtR"
    return b"\x80\x02}" + word(name.encode()) + made + b"s."


# ---- archives and arrays ---------------------------------------------------------------------------------------------


def archive(*entries, method=zipfile.ZIP_STORED):
    """The bytes of a zip of (name, bytes)."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as zipped:
        for name, contents in entries:
            zipped.writestr(name, contents)
    return file.getvalue()


def npy(shape, dtype="<f4", data=b"", version=1):
    text = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}".encode() + b"\n"
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text + data


def arrays():
    """npy files that lie."""
    return {
        "claims": npy((10**12, 17, 2)),
        "claims nothing": npy((10**12, 0, 2)),
        "negative": npy((-1, 17, 2), data=bytes(136)),
        "overflows": npy((2**62, 4, 17), data=bytes(136)),
        "objects": npy((10**9,), "|O", pickles()["memo"]),
        "pickle": npy((1,), "|O", pickles()["tuples"]),
        "deep": npy(f"{'(' * 5000}{')' * 5000}"),
        "header": npy("(" + "1," * 500_000 + ")", version=2),
        "text": npy((1,), "<U1000000000"),
        "version": b"\x93NUMPY\x09\x09" + bytes(100),
        "fields": npy((1,), "|V8", bytes(8)),
        "scalar": npy((), data=bytes(4)),
        "empty": npy((0, 17, 2)),
        "huge": npy((4, 17, 2), data=np.full((4, 17, 2), 3e38, np.float32).tobytes()),
        "not a number": npy((4, 17, 2), data=np.full((4, 17, 2), np.nan, np.float32).tobytes()),
        "cut": npy((40, 17, 2), data=bytes(136)),
    }


def lying_archive(**claims):
    """A zip whose directory says something else than its data."""
    data = bytearray(archive(("keypoints.npy", npy((1, 17, 2), data=bytes(136)))))
    at = data.rindex(b"PK\1\2")
    for place, (format, value) in claims.items():
        struct.pack_into(format, data, at + int(place[1:]), value)
    return bytes(data)


def archives():
    lzma = bytearray(archive(("a.npy", bytes(1000)), method=zipfile.ZIP_LZMA))
    lzma[35 + 5 : 35 + 9] = b"\xf0\xff\xff\xff"  # of the dictionary's size
    config = lambda text: ("config.npy", npy((), f"<U{len(text)}", text.encode("utf-32-le")))
    official = {"class": "model.SasMamba.SasPoseMamba"}
    return {
        "dictionary": bytes(lzma),
        "many": archive(*((f"{i}.npy", npy((1, 17, 2), data=bytes(136))) for i in range(3000))),
        "long name": archive(("a" * 60_000 + ".npy", npy((1, 17, 2), data=bytes(136)))),
        "other place": archive(("../../a.npy", npy((1, 17, 2), data=bytes(136)))),
        "size": lying_archive(p24=("<I", 0xFFFFFFF0)),
        "packed size": lying_archive(p20=("<I", 0xFFFFFFF0)),
        "place": lying_archive(p42=("<I", 0x7FFFFFFF)),
        "method": lying_archive(p10=("<H", 99)),
        "encrypted": lying_archive(p8=("<H", 1)),
        "cut": archive(("a.npy", npy((4, 17, 2), data=bytes(544))))[:150],
        "end only": b"PK\5\6" + bytes(18),
        "end lies": b"PK\5\6" + struct.pack("<4H2IH", 0, 0, 65535, 65535, 1 << 31, 1 << 31, 0),
        "config": archive(config("[" * 100_000)),
        "config list": archive(config("[]")),
        "dim": archive(config(json.dumps(official | {"kwargs": {"embed_dim_ratio": 100_000}}))),
        "depth": archive(config(json.dumps(official | {"kwargs": {"depth": 100_000}}))),
        "text": archive(config(json.dumps(official | {"kwargs": {"depth": "x" * 100_000}}))),
        "class": archive(config(json.dumps({"class": "x" * 1_000_000}))),
    } | {f"array {name}": archive(config("{}"), ("keypoints.npy", data)) for name, data in arrays().items()}


def weights():
    """Files of torch.save that lie."""
    of = lambda pickled, *storages: archive(("a/data.pkl", pickled), *((f"a/data/{i}", s) for i, s in enumerate(storages)))
    whole = io.BytesIO()
    torch.save(lifter.create_model("linear").state_dict(), whole)
    bit = bytearray(whole.getvalue())
    bit[bit.rindex(b"PK\1\2", 0, bit.rindex(b"data/0")) + 38] ^= 0x10
    old = io.BytesIO()
    torch.save({"a": torch.zeros(4)}, old, _use_new_zipfile_serialization=False)
    return {f"pickle {name}": of(data, bytes(16)) for name, data in pickles().items()} | {
        "storage": of(tensor(1 << 40, (1 << 20, 1 << 20), (1 << 20, 1)), bytes(16)),
        "view": of(tensor(4, (1 << 20, 1 << 20), (0, 0)), bytes(16)),
        "beyond": of(tensor(4, (4, 3), (3, 1)), bytes(16)),
        "before": of(tensor(4, (4,), (1,), -4), bytes(16)),
        "overflow": of(tensor(4, (1 << 62, 8), (1 << 62, 8)), bytes(16)),
        "bit": bytes(bit),
        "old": old.getvalue()[:-8] + struct.pack("<q", 1 << 40),
        "cut": whole.getvalue()[:-30],
        "no pickle": archive(("a/version", b"3")),
    }


def safetensors():
    def of(header, data=b"", size=None):
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(text) if size is None else size) + text + data

    def says(**kwargs):
        return of({"__metadata__": {"lifter": json.dumps({"model": kwargs.pop("model", "mixste"), "kwargs": kwargs})}})

    one = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    return {
        "header": of(b"{}", size=1 << 62),
        "header beyond": of(b"{}", size=1 << 20),
        "header of spaces": of(b"{}" + b" " * 20_000_000),
        "deep": of(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        "about deep": of({"__metadata__": {"lifter": "[" * 100_000}}),
        "shape": of({"a": one | {"shape": [1 << 40, 1 << 40]}}, bytes(16)),
        "beyond": of({"a": one | {"data_offsets": [0, 1 << 40], "shape": [1 << 38]}}, bytes(16)),
        "backwards": of({"a": one | {"data_offsets": [16, 0]}}, bytes(16)),
        "overlap": of({"a": one, "b": one}, bytes(16)),
        "dtype": of({"a": one | {"dtype": "F1024"}}, bytes(16)),
        "many": of({str(i): one | {"shape": [0], "data_offsets": [0, 0]} for i in range(10_000)}),
        "dim": says(dim=60_000, depth=60_000),
        "depth": says(dim=8, depth=60_000, num_heads=1),
        "frames": says(num_frames=65_536, dim=65_536),
        "text": says(dim="x" * 100_000),
        "negative": says(dim=-8),
        "unknown": says(model="x" * 100_000),
        "digest": of({"__metadata__": {"sha256": "0" * 64}, "a": one}, bytes(16)),
    }


# ---- text ------------------------------------------------------------------------------------------------------------


def written(suffix):
    """Three frames as `lifter` writes them."""
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder, f"a.{suffix}"), next(iter(open_gait(1, 3))))
        return Path(folder, f"a.{suffix}").read_bytes()


def texts():
    """{name with its suffix: bytes}."""
    pose = [value for i in range(17) for value in (300.0 + 10 * i, 200.0 + 7 * i, 1.0)]
    entry = lambda **known: json.dumps([{"image_id": "1.jpg", "keypoints": pose, "score": 1.0} | known]).encode()
    joint = lambda depth: "".join(f"JOINT j{i}\n{{\nOFFSET 0 1 0\nCHANNELS 0\n" for i in range(depth))
    still = "MOTION\nFrames: 1\nFrame Time: 0.02\n0 0 0\n"
    three = "CHANNELS 3 Xposition Yposition Zposition"
    bvh = lambda joints="", motion=still, channels=three: (
        f"HIERARCHY\nROOT a\n{{\nOFFSET 0 0 0\n{channels}\n{joints}}}\n{motion}".encode()
    )
    walk = {suffix: written(suffix) for suffix in ("csv", "trc", "c3d", "bvh")}
    lines = walk["csv"].splitlines()
    later = b"\n".join((*lines[:-1], re.sub(rb"^\d+", b"999999999999", lines[-1]), b""))
    points = bytearray(walk["c3d"])
    points[2:4] = points[8:10] = b"\xff\xff"
    c3d = bytearray(2048)
    c3d[:2], c3d[512:516] = b"\x02\x50", b"\x01\x50\x01\x54"
    struct.pack_into("<5H", c3d, 2, 65535, 65535, 1, 65535, 0)
    return {
        "deep.json": b"[" * 1_000_000,
        "deep objects.json": b'{"a":' * 300_000,
        "digits.json": b"[" + b"9" * 1_000_000 + b"]",
        "infinite.json": b'[{"image_id": "1.jpg", "keypoints": [' + b"1e999," * 50 + b"1e999]}]",
        "no text.json": b"\xff\xfe\xfd" * 1000,
        "zero bytes.json": bytes(100_000),
        "frame.json": entry(image_id="999999999.jpg") [:-1] + b"," + entry(image_id="000000000.jpg")[1:],
        "frame number.json": entry(frame_id=10**12)[:-1] + b"," + entry(frame_id=0)[1:],
        "frame of digits.json": entry(image_id="9" * 5000)[:-1] + b"," + entry(image_id="1")[1:],
        "person.json": entry(idx=10**18),
        "joints.json": entry(keypoints=[0.0] * 300_000),
        "keys.json": json.dumps({str(i): i for i in range(50_000)}).encode(),
        "lines.jsonl": b"[]\n" * 100_000,
        "deep.jsonl": b"{}\n" + b"[" * 500_000,
        "columns.csv": ",".join(f"x{i}" for i in range(50_000)).encode() + b"\n1\n",
        "frames.csv": later,
        "quotes.csv": b'frame,x\n"' + b"a" * 500_000,
        "zero bytes.csv": b"frame,x\n" + bytes(100_000),
        "one line.csv": b"a" * 1_000_000,
        "frames.bvh": bvh(motion="MOTION\nFrames: 1000000000\nFrame Time: 0.02\n0 0 0\n"),
        "fewer.bvh": bvh(motion="MOTION\nFrames: -5\nFrame Time: 0.02\n0 0 0\n"),
        "time.bvh": bvh(motion="MOTION\nFrames: 1\nFrame Time: nan\n0 0 0\n"),
        "channels.bvh": bvh(channels="CHANNELS 1000000000 Xposition"),
        "deep.bvh": bvh(joint(20_000) + "}" * 20_000),
        "open.bvh": b"HIERARCHY\nROOT a\n{\n" * 20_000,
        "digits.bvh": bvh(motion="MOTION\nFrames: " + "9" * 100_000 + "\nFrame Time: 0.02\n0 0 0\n"),
        "points.c3d": bytes(c3d),
        "empty parameters.c3d": b"\x02\x50" + bytes(510) + b"\1\x50\1\x54" + b"\x01\x01A\0\0" * 100,
        "block.c3d": b"\xff\x50" + bytes(1022),
        "more points.c3d": bytes(points),
        "claims.trc": re.sub(rb"\t3\t17\t", b"\t1000000000\t1000000000\t", walk["trc"]),
        "numbers.trc": re.sub(rb"(?m)^3\t", b"999999999999\t", walk["trc"]),
        "more frames.bvh": walk["bvh"].replace(b"Frames: 3", b"Frames: 1000000000"),
        "claims.mat": b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM" + struct.pack("<2I", 14, 0x7FFFFFFF) + bytes(64),
        "no.mat": b"\x89HDF\r\n\x1a\n" + bytes(200),
    }  # fmt: skip


def unfolding():
    """Files that unfold to a hundred megabytes and more; they take seconds to make."""
    zeros = npy((110_000_000,), "|u1") + bytes(110_000_000)
    folded = gzip.compress(bytes(110_000_000))
    matlab = zlib.compress(struct.pack("<2I", 14, 110_000_056) + bytes(110_000_056))
    return {
        "zeros.npz": archive(("a.npy", zeros), method=zipfile.ZIP_DEFLATED),
        "zeros of lzma.npz": archive(("a.npy", zeros), method=zipfile.ZIP_LZMA),
        "zeros of bzip2.npz": archive(("a.npy", zeros), method=zipfile.ZIP_BZIP2),
        "zeros.pt": archive(("a/data.pkl", zeros), method=zipfile.ZIP_DEFLATED),
        "zeros.mat": b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM" + struct.pack("<2I", 15, len(matlab)) + matlab,
        "zeros.json.gz": folded,
        "again.json.gz": gzip.compress(folded),
        "deep.json.gz": gzip.compress(b"[" * 20_000_000),
        "numbers.csv.gz": gzip.compress(b"frame,x\n" + b"1,1\n" * 20_000_000),
        "zeros.npy.gz": gzip.compress(zeros),
    }


def write(folder, bombs=False):
    """Write all of them; their paths."""
    folder = Path(folder)
    files = {f"{name}.npz": data for name, data in archives().items()}
    files |= {f"{name}.npy": data for name, data in arrays().items()}
    files |= {f"{name}.pkl": data for name, data in pickles().items()}
    files |= {f"{name}.pt": data for name, data in weights().items()}
    files |= {f"{name}.safetensors": data for name, data in safetensors().items()}
    files |= texts() | (unfolding() if bombs else {})
    suffixes = sorted({Path(name).suffix for name in files if not name.endswith(".gz")})
    files |= {f"nothing{suffix}": b"" for suffix in suffixes}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    for suffix in suffixes:
        with (folder / f"holes{suffix}").open("wb") as file:
            file.write(files.get(f"cut{suffix}", b"{"))
            file.truncate(1 << 40)
        os.mkfifo(folder / f"pipe{suffix}")
        (folder / f"device{suffix}").symlink_to("/dev/zero")
        (folder / f"loop{suffix}").symlink_to(f"loop{suffix}")
        (folder / f"folder{suffix}").mkdir()
        (folder / f"folder{suffix}" / "itself").symlink_to(folder / f"folder{suffix}")
    with socket.socket(socket.AF_UNIX) as other:
        here = os.getcwd()
        os.chdir(folder)  # for a path may be too long for a socket
        try:
            other.bind("socket.json")
        finally:
            os.chdir(here)
    return sorted(folder.iterdir())


# ---- what they cost --------------------------------------------------------------------------------------------------


def read(path):
    """Return "read", or the error of a file in one line."""
    try:
        if path.suffix in WEIGHTS:
            lifter.load_pretrained(path, None if path.suffix == ".safetensors" else "linear")
        else:
            format = detect(path)
            for sequence in open_data(path, format, **({"size": (1000, 1000)} if "size" in options_of(format) else {})):
                len(sequence)
    except (ValueError, KeyError, OSError, ImportError) as error:
        return " ".join(f"{type(error).__name__}: {error}".split())
    return "read"


def check(path):
    """The same of `lifter verify`."""
    (result, *_) = verify(path)
    return result.message or "read"


def _measured(function, paths, pipe):
    status = lambda field: int(re.search(rf"{field}:\s*(\d+)", Path("/proc/self/status").read_text())[1]) / 1000
    for path in paths:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before, began, cpu = status("VmRSS"), time.perf_counter(), time.process_time()
        try:
            told = function(path)
        except BaseException as error:
            told = f"NOT CAUGHT {type(error).__name__}: {error}"
        pipe.send((told, time.perf_counter() - began, time.process_time() - cpu, status("VmHWM") - before))


def costs(function, paths, patience=30.0):
    """For each file what became of it, seconds, seconds of the CPU, MB at most beyond what there was; in another process."""
    fork, left = multiprocessing.get_context("fork"), list(paths)
    while left:
        ours, theirs = fork.Pipe()
        process = fork.Process(target=_measured, args=(function, left, theirs))
        process.start()
        theirs.close()
        for path in left:
            try:
                found = ours.recv() if ours.poll(patience) else ("NO END", patience, patience, 0.0)
            except EOFError:
                found = "DIED", 0.0, 0.0, 0.0
            yield path, *found
            if found[0] in ("NO END", "DIED"):
                break
        left = left[left.index(path) + 1 :]
        process.kill()
        process.join()


def warm(folder):
    """Import what readers import when they are needed."""
    for name in ("nothing.json", "nothing.npz", "no.mat", "nothing.safetensors", "cut.pt"):
        read(Path(folder, name))
    check(Path(folder, "dim.npz"))
    with torch.device("meta"):
        lifter.create_model("sasmamba", dim=8, depth=1)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        paths = write(folder, bombs=True)
        warm(folder)
        found = [*costs(read, paths), *costs(check, [path for path in paths if path.suffix == ".npz"])]
    for path, told, seconds, cpu, size in found:
        bad = told.startswith(("NO", "DIED")) or cpu > SECONDS or size > MEGABYTES
        if bad or "-v" in sys.argv:
            costs_it = f"{seconds:6.2f} s {cpu:6.2f} s of the CPU {size:7.1f} MB"
            print(f"{'BAD' if bad else 'ok '} {path.name:32} {costs_it}  {told[:110]}")
    worst = [max(column) for column in list(zip(*found))[2:]]
    print(f"{len(found)} readings of {len(paths)} files, at most", "{:.2f} s, {:.2f} s of the CPU, {:.1f} MB".format(*worst))
