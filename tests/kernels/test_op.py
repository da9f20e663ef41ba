"""What `Op` does besides what `test_conformance` asks of every op."""

import pytest
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
