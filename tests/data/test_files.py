"""Archives, pickles and JSON of others: what is data is read, everything else is an error with a message, nothing is run."""

import io
import os
import pickle
import tracemalloc
import zipfile
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifter.data import files
from lifter.data.files import Npz, look_at_json, numbers, read_json, read_npy, read_pickle

DATA = {
    "floats": np.arange(6, dtype=np.float32).reshape(2, 3),
    "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "strided": np.arange(10)[::3],
    "big endian": np.arange(3, dtype=">i4"),
    "text": np.array(["a", "bcd"]),
    "objects": np.array([{"x": 1}, None, np.ones(2)], dtype=object),
    "number": np.float64(2.5),
    "plain": [1, 2.5, "text", None, True, b"raw", (3, 4)],
    np.str_("key"): {"deep": [np.zeros((0, 17, 2))]},
}


def check_same(got, expected):
    if isinstance(expected, dict):
        assert got.keys() == expected.keys()
        for key in expected:
            check_same(got[key], expected[key])
    elif isinstance(expected, np.ndarray) and expected.dtype == object or isinstance(expected, (list, tuple)):
        assert len(got) == len(expected)
        for one, other in zip(got, expected):
            check_same(one, other)
    elif isinstance(expected, np.ndarray):
        assert got.dtype == expected.dtype and got.shape == expected.shape and (got == expected).all()
    else:
        assert got == expected and type(got) in (type(expected), np.float64)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle(tmp_path, protocol):
    (tmp_path / "data.pkl").write_bytes(pickle.dumps(DATA, protocol))
    check_same(read_pickle(tmp_path / "data.pkl"), DATA)


def test_npz(tmp_path):
    np.savez_compressed(
        tmp_path / "data.npz", positions=DATA, plain=DATA["floats"], text=np.array("words"), json=np.array("{}")
    )
    archive = Npz(tmp_path / "data.npz")
    check_same(archive["positions"], DATA)
    check_same(archive["plain"], DATA["floats"])
    assert archive.shape("plain") == (2, 3) and archive.text("text") == "words" and archive.json("json") == {}
    assert "plain" in archive and "other" not in archive
    for call, error in ((lambda: archive["other"], KeyError), (lambda: archive.text("plain"), ValueError)):
        with pytest.raises(error, match="data.npz: "):
            call()
    np.save(tmp_path / "data.npy", DATA["columns"])
    check_same(read_npy(tmp_path / "data.npy"), DATA["columns"])


class Run:
    """Pickled, it asks the reader to call a function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def fields(path):
    """A structured dtype that says of eight bytes that they are a Python object."""
    return np.zeros(1, [("object", object)])


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize(
    "attack",
    [
        lambda path: Run(os.system, f"touch {path}"),
        lambda path: Run(eval, f"open({str(path)!r}, 'w')"),
        lambda path: Run(partial(open, str(path), "w")),
        lambda path: Run(np.save, path, np.zeros(1)),
        lambda path: Run(np.fromfile, "/etc/hostname"),
        lambda path: Run(getattr, "text", "upper"),
        lambda path: np.random.default_rng(0),
        fields,
    ],
)
def test_nothing_is_run(tmp_path, attack, protocol):
    made = tmp_path / "made"
    evil = {"positions": [1, attack(made)]}
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(evil, protocol))
    with pytest.raises(ValueError, match=r"evil.pkl: not a pickle of plain data"):
        read_pickle(tmp_path / "evil.pkl")
    np.savez(tmp_path / "evil.npz", positions_3d=np.array(evil, dtype=object))
    with pytest.raises(ValueError, match=r"evil.npz: positions_3d: not a pickle of plain data"):
        Npz(tmp_path / "evil.npz")["positions_3d"]
    assert not made.exists()


class Array:
    """Pickled, an array whose parts need not fit together."""

    def __init__(self, shape, dtype, data):
        self.state = (1, shape, np.dtype(dtype), False, data)

    def __reduce__(self):
        reconstruct, arguments, _ = np.zeros(1).__reduce__()
        return reconstruct, arguments, self.state


@pytest.mark.parametrize(
    "shape, dtype, data",
    [((3,), "f4", b"\0" * 8), ((-1,), "f4", b"\0" * 8), ((2,), "O", b"\0" * 16), ((10**12,), "f8", b""), ((2,), "f4", None)],
)
def test_arrays_that_lie_about_themselves(tmp_path, shape, dtype, data):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(Array((2,), "f4", b"\0" * 8)))
    assert read_pickle(tmp_path / "x.pkl").shape == (2,)
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(Array(shape, dtype, data)))
    with pytest.raises(ValueError, match="x.pkl: not a pickle of plain data"):
        read_pickle(tmp_path / "x.pkl")


def test_pickle_of_many_references_is_read_once(tmp_path):
    """Ten lists of two references to the one before are 1024 numbers; thirty are 2^30, which an array of them would hold."""
    values = [1]
    for _ in range(30):
        values.append([values[-1], values[-1]])
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(values[10]))
    got = read_pickle(tmp_path / "x.pkl")
    assert got[0] is got[1]
    for value in (values[30], {"data": (values[30],)}):
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(value))
        with pytest.raises(ValueError, match="x.pkl: .*it refers to the same parts again and again"):
            read_pickle(tmp_path / "x.pkl")


def test_json_that_was_looked_at(tmp_path):
    """It is read once for both, but again after it was changed, and not kept for a second time."""
    (tmp_path / "x.json").write_text("[1]")
    value = look_at_json(tmp_path / "x.json")
    assert read_json(tmp_path / "x.json") is value and read_json(tmp_path / "x.json") is not value
    look_at_json(tmp_path / "x.json")
    (tmp_path / "x.json").write_text("[1, 2]")
    assert read_json(tmp_path / "x.json") == [1, 2]


PICKLE = pickle.dumps({"a": np.arange(9.0), "b": ["x", 1]}, 4)


@given(st.data())
def test_damaged_pickles(tmp_path_factory, data):
    """Cut short, or with bytes changed: an error of ours, or data."""
    position = data.draw(st.integers(0, len(PICKLE) - 1))
    if data.draw(st.booleans()):
        damaged = PICKLE[:position]
    else:
        damaged = PICKLE[:position] + data.draw(st.binary(min_size=1, max_size=3)) + PICKLE[position + 1 :]
    path = tmp_path_factory.getbasetemp() / "damaged.pkl"
    path.write_bytes(damaged)
    try:
        read_pickle(path)
    except ValueError as error:
        assert str(error).startswith(f"{path}: ")


@given(st.data())
def test_damaged_archives(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    np.savez_compressed(path, a=np.arange(300.0).reshape(3, 100), b=np.array([{"x": np.ones(3)}], dtype=object))
    whole = path.read_bytes()
    position = data.draw(st.integers(0, len(whole) - 1))
    damaged = whole[:position] + (
        b"" if data.draw(st.booleans()) else data.draw(st.binary(min_size=1)) + whole[position + 1 :]
    )
    path.write_bytes(damaged)
    try:
        archive = Npz(path)
        for key in archive.keys:
            archive[key], archive.shape(key)
    except (ValueError, KeyError) as error:
        assert str(path) in str(error)


def test_array_that_claims_more_than_it_has(tmp_path):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f8", "fortran_order": False, "shape": (10**12, 17)})
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", buffer.getvalue() + b"\0" * 64)
    with pytest.raises(ValueError, match=r"x.npz: a: cut short"):
        Npz(tmp_path / "x.npz")["a"]


def test_text_that_is_none(tmp_path):
    """numpy makes no Python text of such characters, wherever it is asked for."""
    bad = np.full(4, 0xFFFFFFFF, np.uint32).view("U2")
    np.savez(tmp_path / "x.npz", a=bad, b=np.array({"text": bad}, dtype=object))
    for key in "ab":
        with pytest.raises(ValueError, match=f"x.npz: {key}: .*characters that there are not"):
            Npz(tmp_path / "x.npz")[key]


@pytest.mark.parametrize("text", ["", "{", "[1, 2", '{"a": nothing}', "[" * 100_000, "\xff", '{"a": ' + "9" * 5000 + "}"])
def test_json_that_is_none(tmp_path, text):
    (tmp_path / "x.json").write_bytes(text.encode("latin1"))
    with pytest.raises(ValueError, match="x.json: not a JSON file"):
        read_json(tmp_path / "x.json")


def test_what_is_not_there():
    for read in (read_json, read_pickle, read_npy, Npz):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            read("nowhere")


def test_numbers():
    assert numbers([[1, 2]], (None, 2), "x").dtype == np.float64
    for value in ([[1, 2], [3]], ["a"], [10**400], None, {}, [[None]], [1j]):
        with pytest.raises(ValueError, match="file: key: not an array of numbers"):
            numbers(value, (None,), "file: key")
    with pytest.raises(ValueError, match=r"file: key: shape \(3,\), expected \(n, 17, 3\)"):
        numbers([1, 2, 3], (None, 17, 3), "file: key")
    with pytest.raises(ValueError, match="a list, expected a dict with 'a'"):
        files.take([], "a", "file")


# ---- a few bytes that claim or unfold to more than a machine has -----------------------------------------------------


@pytest.mark.parametrize("kind", ["memo", "key", "copies", "zeros", "pipe"])
def test_little_is_never_much(tmp_path, kind):
    path = tmp_path / ("a.npz" if kind == "zeros" else "a.pkl")
    if kind == "memo":  # C's unpickler makes a table as long as the number says
        path.write_bytes(b"\x80\x02Kar\xff\xff\xff\x0f.")
    elif kind == "key":  # the hash of tuples of twice the tuple before
        path.write_bytes(b"\x80\x02}K\1" + b"".join(b"q%c" % i + b"h%c" % i + b"\x86" for i in range(40)) + b"K\2s.")
    elif kind == "copies":  # a text, encoded again and again
        text = b"X" + (200_000).to_bytes(4, "little") + b"a" * 200_000
        path.write_bytes(b"\x80\x02]q\0" + text + b"q\1" + b"c_codecs\nencode\nh\1\x85R0" * 20_000 + b".")
    elif kind == "zeros":
        np.savez_compressed(path, a=np.zeros(200_000_000, np.uint8))
    else:
        os.mkfifo(path)
    tracemalloc.start()
    try:
        if kind == "memo":
            assert read_pickle(path) == 97  # it is right otherwise
        else:
            with pytest.raises(ValueError, match=r"a\.(pkl|npz): "):
                Npz(path)["a"] if kind == "zeros" else read_pickle(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20e6
