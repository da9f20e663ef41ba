"""Promises of every op, on the samples of its test file: PyTorch's machinery, layouts, dtypes, threads, wrong arguments."""

import functools
import inspect

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from lifter import kernels
from lifter.kernels import _op
from tests.conftest import TARGETS
from tests.kernels.samples import all_samples, tensors

OPS = {op.function: op for op in _op.registry().values()}


made = functools.cache(lambda make: make())


def pytest_generate_tests(metafunc):
    """`make` is every sample, `trained` those with gradients; with a target, on every backend that has kernels of the op."""
    names = [name for name in ("make", "trained") if name in metafunc.fixturenames]
    if not names:
        return
    cases = []
    for label, make in all_samples().items():
        sample = made(make)
        if names == ["trained"] and not sample.gradients:
            continue
        if "target" not in metafunc.fixturenames:
            cases.append(pytest.param(make, id=label.replace(" ", "-")))
            continue
        for name, (values, marks, _) in TARGETS.items():
            if OPS[sample.function].cpu if name == "cpu" else OPS[sample.function].triton:
                cases.append(pytest.param(*values, make, id=f"{name}-{label.replace(' ', '-')}", marks=marks))
    metafunc.parametrize(["target", *names] if "target" in metafunc.fixturenames else names, cases)


def on(target, make, **sizes):
    """The sample of a few steps of one clip where programs are interpreted."""
    return make(**sizes or (dict(B=1, T=3) if target.slow else {})).on(target.device)


def equal(ours, expected):
    assert ours.keys() == expected.keys()
    for name in expected:
        assert ours[name].dtype == expected[name].dtype, name
        assert torch.equal(ours[name], expected[name]), name


def close(ours, expected, **bounds):
    assert ours.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(ours[name], expected[name], msg=lambda text, name=name: f"{name}: {text}", **bounds)


def test_every_op_has_a_sample():
    functions = {make().function for make in all_samples().values()}
    assert functions == set(OPS) and {function.__name__ for function in functions} <= set(kernels.__all__)


# ---- PyTorch's machinery ---------------------------------------------------------------------------------------------


class Calls(TorchDispatchMode):
    """The ops of ours that run, and their arguments."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace in ("lifter", "lifter_triton"):
            self.found.append((func, [x.detach().clone() if isinstance(x, torch.Tensor) else x for x in args]))
        return func(*args, **(kwargs or {}))


# `test_compiles_whole` covers the last one, which takes long where programs are interpreted.
CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")


def test_opcheck(target, make):
    """Record all ops that a call runs, forward and backward."""
    with target.forced(), Calls() as calls:
        on(target, make).run()
    assert calls.found
    for func, args in calls.found:
        kernel = _op._kernels.get(func._schema.name.split("::")[1])  # None: an op that is no `Kernel`, as `linear`
        backward = kernel and kernel.backward
        derived = {result.name for result in backward.schema.returns} if backward else ()
        for argument, x in zip(func._schema.arguments, args):
            if f"d{argument.name}" in derived and x is not None:
                x.requires_grad_()
        torch.library.opcheck(func, tuple(args), test_utils=CHECKS[: 3 if target.slow else 4])


def test_compiles_whole(target, make):
    """With gradients; first for the lengths of one call, then for any."""
    compiled = torch.compile(make().function, fullgraph=True, backend="aot_eager")
    with target.forced():
        for B, T in ((1, 2), (1, 3)) if target.slow else ((2, 3), (2, 5)):
            sample = on(target, make, B=B, T=T)
            close(sample.run(compiled), sample.run())


class Call(torch.nn.Module):
    """A call of the tensors of a sample."""

    def __init__(self, sample):
        super().__init__()
        self.function = sample.function
        self.rest = {name: x for name, x in sample.inputs.items() if not isinstance(x, torch.Tensor)}

    def forward(self, **given):
        return self.function(**self.rest, **given)


def test_exports(target, make):
    sample = on(target, make)
    given = lambda: {name: x.clone() for name, x in sample.inputs.items() if isinstance(x, torch.Tensor)}
    with target.forced(), torch.no_grad():
        program = torch.export.export(Call(sample), (), given())
        names = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
        assert any(name.startswith(f"lifter{'_triton' if target.backend == 'triton' else ''}.") for name in names), names
        ours, expected = program.module()(**given()), sample.function(**sample.inputs | given())
        torch.testing.assert_close(tensors(ours), tensors(expected))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap(target, trained):
    """Over all that has a gradient, with gradients."""
    sample = on(target, trained)
    with target.forced():
        call = lambda leaves: tensors(sample.function(**sample.inputs | leaves))
        xs = {name: torch.stack([x, 0.5 * x]).detach().requires_grad_() for name, x in sample.leaves().items()}
        ours = torch.vmap(call)(xs)
        one_by_one = [call({name: x[i] for name, x in xs.items()}) for i in range(2)]
        expected = [torch.stack(ys) for ys in zip(*one_by_one)]
        losses = [sum(y.square().sum() for y in results if y.requires_grad) for results in (ours, expected)]
        gradients = [torch.autograd.grad(loss, list(xs.values())) for loss in losses]
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing(target, trained, use_reentrant):
    sample = on(target, trained)

    def call(**inputs):
        names = [name for name, x in inputs.items() if isinstance(x, torch.Tensor)]
        function = lambda *given: sample.function(**inputs | dict(zip(names, given)))
        return checkpoint(function, *(inputs[name] for name in names), use_reentrant=use_reentrant)

    with target.forced():
        equal(sample.run(call), sample.run())


def test_saved_tensor_hooks(target, trained):
    """Saved tensors go through the hooks, and are asked for once."""
    sample, unpacked = on(target, trained), []

    def pack(x):
        return len(unpacked), unpacked.append(0), x.cpu()

    def unpack(packed):
        unpacked[packed[0]] += 1
        return packed[2].to(target.device)

    with target.forced():
        expected = sample.run()
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            equal(sample.run(), expected)
    assert unpacked and max(unpacked) == 1


def swapped(x):
    """In the layout of maps that lie along their channels."""
    return x.transpose(1, 2).contiguous().transpose(1, 2) if x.dim() > 2 else x


@pytest.mark.parametrize("layout", [torch.Tensor.contiguous, swapped])
def test_results_are_changed_in_place(target, trained, layout):
    """Before the backward: they are views of nothing. Of a result that it needs autograd says that it is lost."""
    sample = on(target, trained).map(lambda _, x: layout(x))
    changed = []

    def call(**inputs):
        changed.extend(y.add_(1) for y in tensors(sample.function(**inputs)) if y.requires_grad)
        return tuple(changed)

    with target.forced():
        if target.slow:
            call(**sample.inputs | sample.leaves())
            return
        try:
            ours = sample.run(call)
        except RuntimeError as error:
            assert changed and "needed for gradient computation has been modified by an inplace operation" in str(error)
        else:
            expected = sample.run()
            names = [f"d{name}" for name in sample.gradients]
            close(*({name: found[name] for name in names} for found in (ours, expected)))


def dual(function, x):
    with forward_ad.dual_level():
        return function(forward_ad.make_dual(x, x))


TRANSFORMS = {
    "grad": lambda f, x: torch.func.grad(lambda x: f(x).sum())(x),
    "grad of vmap": lambda f, x: torch.func.grad(lambda xs: torch.vmap(f)(xs).sum())(x[None]),
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (x,)),
    "forward mode": dual,
}


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_no_derivative_is_lost(trained, transform):
    sample = trained()
    name = sample.gradients[0]
    function = lambda x: tensors(sample.function(**sample.inputs | {name: x}))[0]
    with pytest.raises(RuntimeError, match="the kernels support torch.autograd but not torch.func"):
        TRANSFORMS[transform](function, sample.inputs[name])
    with kernels.backend("reference"):
        TRANSFORMS[transform](function, sample.inputs[name])


def test_no_silent_second_derivative(target, trained):
    sample = on(target, trained)
    leaves = sample.leaves()
    with target.forced():
        loss = tensors(sample.function(**sample.inputs | leaves))[0].square().sum()
        gradients = torch.autograd.grad(loss, list(leaves.values()), create_graph=True, allow_unused=True)
        with pytest.raises(RuntimeError, match=r"\w+: second derivatives are not supported"):
            sum(g.square().sum() for g in gradients if g is not None).backward()


def test_flops_need_no_kernels(make):
    def flops(sample):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            sample.function(**sample.inputs)
        return counter.get_total_flops()

    counted = flops(make().on("meta"))
    assert counted > 0, "the cost gives no FLOPs: count additions and multiplications where there are no products"
    assert counted == flops(make())


# ---- layouts, sizes, dtypes, threads ---------------------------------------------------------------------------------


def sliced(x):
    """Inside what is NaN."""
    wide = F.pad(x, (2, 1) * x.dim(), value=torch.nan if x.is_floating_point() else 0)
    return wide[tuple(slice(2, -1) for _ in x.shape)]


LAYOUTS = {
    "sliced": sliced,
    "apart": lambda x: x.repeat_interleave(2, -1)[..., ::2],
    "turned over": lambda x: x.permute(*reversed(range(x.dim()))).contiguous().permute(*reversed(range(x.dim()))),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides(target, make, layout):
    """Views give what their copies give."""
    sample = on(target, make)
    views = sample.map(lambda name, x: LAYOUTS[layout](x) if x.dim() else x)
    with target.forced():
        (equal if sample.exact else close)(views.run(), sample.run())


def test_no_clip(target, make):
    """Outputs of no elements, and gradients of parameters that are zero."""
    sample = on(target, make, B=0)
    with target.forced():
        ours = sample.run()
    with kernels.backend("reference"):
        close(ours, sample.run())


def test_repeats_on_any_number_of_threads(make):
    """Bit for bit."""
    threads, results = torch.get_num_threads(), []
    sample = make(B=7, T=50)
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(sample.run())
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        (equal if sample.repeats else close)(other, results[0])


def test_nan_is_not_hidden(target, make):
    """A result is NaN if it depends on a NaN: the reference gives one, and for other numbers in its place other results."""
    sample = on(target, make)

    def put(value):
        def into(_, x):
            x = x.detach().clone(memory_format=torch.contiguous_format)
            x.view(-1)[x.numel() // 2] = value
            return x

        return into

    for name, x in sample.inputs.items():
        if not isinstance(x, torch.Tensor) or not x.is_floating_point() or name in sample.selects:
            continue
        if target.slow and sample.maps and name not in sample.maps:
            continue
        spoilt, *others = (sample.map(put(value), [name]) for value in (torch.nan, 0.3, 0.6))
        with torch.set_grad_enabled(not target.slow):
            with target.forced():
                ours = spoilt.run()
            with kernels.backend("reference"):
                expected, *others = spoilt.run(), *(other.on(target.device, torch.float64).run() for other in others)
        for result, y in expected.items():
            hidden = y.isnan() & (others[0][result] != others[1][result]) & ours[result].isfinite()
            assert not hidden.any(), f"{name}: {int(hidden.sum())} of {y.numel()} numbers of {result}"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(target, make, dtype):
    """Computes in its dtype what is a map, and leaves the rest alone."""
    sample = on(target, make)
    with target.forced(), torch.no_grad():
        expected = sample.cast(dtype).run()
        with torch.autocast(target.device, dtype):
            equal(sample.run(), expected)


def test_autocast_leaves_float64_and_the_reference_alone(make):
    sample = make()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        wide = sample.on("cpu", torch.float64).run()
        with kernels.backend("reference"):
            ours = sample.run()
    assert all(y.dtype == torch.float64 for y in wide.values() if y.is_floating_point())
    with torch.no_grad(), kernels.backend("reference"):
        equal(ours, sample.cast(torch.bfloat16).run())


# ---- wrong arguments -------------------------------------------------------------------------------------------------


def test_what_is_no_tensor(make):
    """A TypeError that names the argument and says what came."""
    sample = make()
    sample.run()  # is fine as it is
    for name, x in sample.inputs.items():
        if isinstance(x, torch.Tensor):
            optional = inspect.signature(sample.function).parameters[name].default is None
            for wrong in ([1.0], "x", 3.0) + (() if optional else (None,)):
                expected = rf"{sample.function.__name__}: {name} (is|has dtype) {type(wrong).__name__}, expected"
                with pytest.raises(TypeError, match=expected):
                    sample.function(**sample.inputs | {name: wrong})


def test_other_devices(make):
    """A ValueError that names the argument and the device that was expected."""
    sample = make()
    first, *others = [name for name, x in sample.inputs.items() if isinstance(x, torch.Tensor)]
    for name in others:
        with pytest.raises(ValueError, match=rf"{sample.function.__name__}: \w+ is on (meta|cpu), expected \w+'s device"):
            sample.function(**sample.inputs | {name: sample.inputs[name].to("meta")})


@pytest.mark.parametrize(
    "name, number",
    [(name, "scale") for name in ("axial_attention frame", "retention causal", "temporal_graph_conv")]
    + [("axial_attention joint", "dropout_p")],
)
def test_numbers(name, number):
    """A TypeError that names the argument and says what came; no gradient is lost."""
    sample = all_samples()[name]()
    call = lambda wrong: sample.function(**sample.inputs | {number: wrong})
    place = f"{sample.function.__name__}: {number}"
    for wrong in ("x", [1.0]):
        with pytest.raises(TypeError, match=f"{place} is .*, expected a number"):
            call(wrong)
    with pytest.raises(ValueError, match=rf"{place} has shape \(2,\), expected \(\) or \(1,\)"):
        call(torch.ones(2))
    with pytest.raises(ValueError, match=f"{place} requires a gradient"):
        call(torch.tensor(0.5, requires_grad=True))


def test_what_is_written_is_not_expanded(make):
    """A ValueError that names the argument: the numbers of an expanded tensor overwrite each other."""
    sample = make()
    if sample.overwrites:
        expanded = sample.inputs[sample.overwrites][:, :1].expand(sample.inputs[sample.overwrites].shape)
        with pytest.raises(ValueError, match=f"{sample.function.__name__}: {sample.overwrites} has strides .*clone it"):
            sample.function(**sample.inputs | {sample.overwrites: expanded})
