"""Small files that want to be much are refused, or read as they are; each takes little time and little memory."""

from . import hostile


def test_little_is_never_much(tmp_path):
    """Run `python -m tests.hostile` without the files that take long to make."""
    paths = hostile.write(tmp_path)
    assert len(paths) > 150
    hostile.warm(tmp_path)
    readings = [*hostile.costs(hostile.read, paths)]
    readings += hostile.costs(hostile.check, [path for path in paths if path.suffix == ".npz"])
    for path, told, _, cpu, size in readings:
        assert not told.startswith(("NO END", "DIED", "NOT CAUGHT")), (path, told)
        assert size < hostile.MEGABYTES and cpu < 5 * hostile.SECONDS, (path, cpu, size)
