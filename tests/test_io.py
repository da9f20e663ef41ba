"""Files that are written whole or not at all."""

import pytest

from lifter._io import whole


def test_two_writers_of_one_file(tmp_path):
    """Neither writes into what the other is writing; the last one's is there, and nothing else."""
    path = tmp_path / "a.npz"
    with whole(path) as first, whole(path, ".npz") as second:
        first.write_text("first")
        second.write_text("second")
        assert first != second and second.suffix == ".npz" and not path.exists()
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(ZeroDivisionError), whole(path) as partly:
        partly.write_text("broken")
        1 / 0  # noqa: B018
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]


def test_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="b/c.npz: there is no folder .*b$"), whole(tmp_path / "b" / "c.npz"):
        pass
