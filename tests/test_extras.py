import pytest

from lifter import _extras


@pytest.mark.parametrize(
    "is_clone, command", [(True, 'pip install -e ".[render]"'), (False, 'pip install "pose-lifter[render]"')]
)
def test_a_missing_package_is_named_with_its_extra(monkeypatch, is_clone, command):
    monkeypatch.setattr(_extras, "IS_CLONE", is_clone)
    with pytest.raises(ImportError) as caught, _extras.needs("render", "walk.gif"):
        import no_such_package.film  # noqa: F401
    assert str(caught.value) == f"walk.gif needs no_such_package: {command}"


def test_a_package_that_is_there_but_broken_keeps_its_error():
    with pytest.raises(ImportError, match="^no libGL$"), _extras.needs("detect", "lifter detect"):
        raise ImportError("no libGL")


def test_a_package_for_later_is_missed_at_once(monkeypatch):
    monkeypatch.setattr(_extras, "IS_CLONE", True)
    with pytest.raises(ImportError, match=r'^lifter train needs no_such_package: pip install -e "\.\[train\]"$'):
        with _extras.needs("train", "lifter train", "pytest", "no_such_package"):
            pass


def test_these_tests_run_from_a_clone():
    assert _extras.IS_CLONE
