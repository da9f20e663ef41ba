"""Ops called from many Python threads, in a forked worker, and on every instruction set that this machine has."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from lifter import _library
from lifter.kernels import deform_conv2d, selective_scan_fn, skeleton_scan
from tests.kernels import test_selective_scan, test_skeleton_scan


def call_all():
    """The output of every op and the gradients of their sum, on fixed inputs."""
    scan = test_selective_scan.outputs_and_gradients(
        selective_scan_fn, test_selective_scan.make_inputs(2, 40, 130, 16, groups=2), delta_softplus=True
    )
    skeleton = test_skeleton_scan.output_and_gradients(skeleton_scan, test_skeleton_scan.make_inputs(B=2, C=40, N=16, terms=3))
    g = torch.Generator().manual_seed(0)
    x, offset, weight = (torch.randn(*s, generator=g) for s in ((2, 20, 9, 17), (2, 18, 9, 17), (20, 1, 3, 3)))
    leaves = [t.requires_grad_() for t in (x, offset, weight)]
    out = deform_conv2d(*leaves, padding=1)
    return [*scan.values(), *skeleton.values(), out.detach(), *torch.autograd.grad(out.square().sum(), leaves)]


def test_cpu_eight_python_threads_at_once():
    expected = call_all()
    with ThreadPoolExecutor(8) as pool:
        for results in pool.map(lambda _: call_all(), range(24)):
            assert all(torch.equal(ours, theirs) for ours, theirs in zip(results, expected))


class _Results(Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, i):
        return call_all()


def test_cpu_forked_dataloader_worker():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        call_all()  # the parent's thread pool is awake before the fork
        torch.set_num_threads(1)  # as in the worker: torch's own products may depend on it
        expected = call_all()
        loader = DataLoader(_Results(), batch_size=None, num_workers=1, multiprocessing_context="fork", timeout=120)
        for results in loader:
            assert all(torch.equal(ours, theirs) for ours, theirs in zip(results, expected))
    finally:
        torch.set_num_threads(threads)


def test_cpu_capabilities_agree(instruction_set):
    ours = call_all()
    _library._C.set_cpu_capability(_library._C.max_cpu_capability())
    for x, best in zip(ours, call_all()):
        scale = best.abs().max()
        torch.testing.assert_close(x / scale, best / scale, atol=3e-6, rtol=0)


def test_cpu_unknown_capability_is_named():
    with pytest.raises(ValueError, match="'mmx'.*baseline"):
        _library._C.set_cpu_capability("mmx")
