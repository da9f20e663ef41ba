"""Registration of formats, and the search for the format of a file."""

import pytest

from lifter.data import Dataset, Sequence, detect, open_data
from lifter.data.outputs import write
from lifter.data.registry import FORMATS, WRITERS, Candidate, options_of, register_format, register_writer
from lifter.data.synthetic import open_gait


@pytest.fixture(autouse=True)
def tables():
    """Forget the formats that a test registers."""
    formats, writers = dict(FORMATS), dict(WRITERS)
    yield
    for table, before in ((FORMATS, formats), (WRITERS, writers)):
        table.clear()
        table.update(before)


def register(name, **how):
    @register_format(name, f"the format {name}", **how)
    def open_it(path, fps=25.0) -> Dataset:
        read = lambda: Sequence("walk", poses=next(iter(open_gait(1))).poses, fps=fps, source=str(path))
        return Dataset(name, path, {"walk": read})


def test_a_format_of_ones_own(tmp_path):
    path = tmp_path / "walk.steps"
    path.write_text("STEPS 1")
    with pytest.raises(ValueError, match="walk.steps: of no known format; known are .*bvh"):
        detect(path)
    register("steps", sniff=lambda file: file.start.startswith(b"STEPS"))
    assert detect(path) == "steps" and options_of("steps") == ("fps",)
    assert open_data(path)["walk"].fps == 25 and open_data(path, fps=50)["walk"].fps == 50
    with pytest.raises(ValueError, match="steps knows no layout, only fps"):
        open_data(path, layout="coco")

    register_writer("steps")(lambda path, sequence: path.write_text(f"STEPS {len(sequence)}"))
    write(tmp_path / "other.steps", open_data(path)["walk"])
    assert (tmp_path / "other.steps").read_text() == "STEPS 243"


def test_what_may_be_several(tmp_path):
    """Content counts more than names; of equal claims both are named, and the user decides."""
    path = tmp_path / "walk.csv"
    path.write_text("STEPS 1")
    assert detect(path) == "table"
    register("other", guess=lambda file: file.suffix == ".csv")
    with pytest.raises(ValueError, match="walk.csv: may be table or other, expected one format: name it by format="):
        detect(path)
    assert open_data(path, "other").format == "other"
    register("steps", sniff=lambda file: file.start.startswith(b"STEPS"))
    assert detect(path) == "steps"

    (tmp_path / "data_3d_h36m.npz").write_bytes(b"")
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "0.pkl").write_bytes(b"")
    assert detect(tmp_path) == "h36m"  # more than the clips below it
    (tmp_path / "01_01.amc").write_text("")
    with pytest.raises(ValueError, match=f"{tmp_path.name}: may be asf or h36m"):
        detect(tmp_path)


def test_registered_twice():
    with pytest.raises(ValueError, match="there is a format 'bvh' already"):
        register("bvh")
    with pytest.raises(ValueError, match="there is a writer of 'npz' already"):
        register_writer("npz")


def test_a_candidate_is_read_once(tmp_path, monkeypatch):
    path = tmp_path / "people.json"
    path.write_text('[null, {"image_id": "1.jpg"}]')
    file = Candidate(path)
    assert file.first_keys == {"image_id"} and file.keys == file.arrays == set()
    path.unlink()
    assert file.first == {"image_id": "1.jpg"} and FORMATS["alphapose"].sniff(file)
