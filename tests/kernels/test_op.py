"""Tests of `Op` besides those that `test_conformance` has for every op."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lifter import _library, kernels
from lifter.kernels import _op
from tests.kernels.samples import all_samples


@pytest.mark.parametrize("label", ["selective_scan_fn grouped", "skeleton_scan", "deform_conv2d depthwise"])
def test_flops_of_a_reference_are_its_products_alone(label):
    sample, counts = all_samples()[label](), {}
    for name in ("reference", "cpu"):
        with FlopCounterMode(display=False) as counter, kernels.backend(name):
            sample.function(**sample.inputs)
        counts[name] = counter.get_total_flops()
    assert counts["reference"] < counts["cpu"]


def test_a_slow_call_is_reported_once_where_it_stands(monkeypatch):
    monkeypatch.setattr(_library, "loaded", False)
    _op._warn_slow.cache_clear()
    sample = all_samples()["deform_conv2d depthwise"]()
    with pytest.warns(UserWarning, match="lifter.deform_conv2d runs its slow PyTorch reference on cpu") as warnings:
        for _ in range(2):
            sample.function(**sample.inputs)
    assert [warning.filename for warning in warnings] == [__file__]


def test_threads_have_backends_of_their_own():
    """Two that overlap leave nothing behind."""
    op, x = _op.registry()["selective_scan"], torch.zeros(1)
    unforced = op.namespace(x)
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        threads = {one: kernels.backend("reference"), other: kernels.backend("cpu")}
        for thread, context in threads.items():
            thread.submit(context.__enter__).result()
        found = [thread.submit(op.namespace, x).result() for thread in threads]
        for thread, context in threads.items():
            thread.submit(context.__exit__, None, None, None).result()
        found += [thread.submit(op.namespace, x).result() for thread in threads]
    assert found == [None, torch.ops.lifter, unforced, unforced] and op.namespace(x) is unforced


def test_compiled_code_follows_the_backend():
    op = _op.registry()["selective_scan"]
    call = torch.compile(lambda x: x + (op.namespace(x) is None), fullgraph=True, backend="eager")
    for name, expected in (("cpu", 0), ("reference", 1), ("cpu", 0)):
        with kernels.backend(name):
            assert call(torch.zeros(1)) == expected
