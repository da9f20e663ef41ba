"""`lifter.compat`: what becomes importable, and that it computes what the originals say."""

import importlib
import importlib.util
import sys

import pytest
import torch
import torch.nn.functional as F

import lifter.compat
from lifter.kernels import causal_conv1d_ref, selective_scan_ref, selective_state_update_ref
from tests.conftest import assert_as_good

FILES = {"causal_conv1d_cuda.py": "causal_conv1d_fwd = 'original'", "mamba_ssm/__init__.py": "", "mamba_ssm/ops.py": "x = 1"}


@pytest.fixture
def installed():
    yield lifter.compat.install()
    lifter.compat.uninstall()


@pytest.fixture
def originals(tmp_path, monkeypatch):
    """Somebody else's modules of two of the names."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    lifter.compat.uninstall()
    for name in [name for name in sys.modules if name.split(".")[0] in lifter.compat.NAMES]:
        del sys.modules[name]


def test_what_is_missing_becomes_importable(installed):
    assert installed == dict.fromkeys(lifter.compat.NAMES, "provided by lifter")
    for name in lifter.compat.NAMES:
        module = importlib.import_module(name)
        assert importlib.util.find_spec(name).origin == module.__file__ == module.__spec__.origin
    assert lifter.compat.install() == installed  # again
    assert sys.meta_path.count(lifter.compat._Finder) == 1
    for name, content in {
        "mamba_ssm": "Mamba Mamba2 selective_scan_fn mamba_inner_fn",
        "mamba_ssm.modules.mamba_simple": "Mamba",
        "mamba_ssm.modules.mamba2": "Mamba2",
        "mamba_ssm.ops.triton.layernorm_gated": "RMSNorm",
        "mamba_ssm.ops.triton.ssd_combined": "mamba_chunk_scan_combined mamba_split_conv1d_scan_combined",
        "mamba_ssm.ops.selective_scan_interface": "selective_scan_fn selective_scan_ref mamba_inner_fn mamba_inner_ref",
        "mamba_ssm.ops.triton.selective_state_update": "selective_state_update selective_state_update_ref",
        "causal_conv1d.causal_conv1d_interface": "causal_conv1d_fn causal_conv1d_update causal_conv1d_ref",
        "causal_conv1d.causal_conv1d_varlen": "causal_conv1d_varlen_states causal_conv1d_varlen_states_ref",
        "causal_conv1d.cpp_functions": "causal_conv1d_fwd_function causal_conv1d_bwd_function causal_conv1d_update_function",
    }.items():
        module = importlib.import_module(name)
        assert all(callable(getattr(module, function)) for function in content.split()), name
    lifter.compat.uninstall()
    assert importlib.util.find_spec("mamba_ssm") is None and "mamba_ssm.ops" not in sys.modules
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("selective_scan_cuda_core")


def test_an_original_is_never_shadowed(originals):
    report = lifter.compat.install()
    assert report["causal_conv1d_cuda"] == f"left: {originals / 'causal_conv1d_cuda.py'} is there"
    assert report["mamba_ssm"].startswith("left: ") and report["causal_conv1d"] == "provided by lifter"
    assert importlib.import_module("causal_conv1d_cuda").causal_conv1d_fwd == "original"
    assert importlib.import_module("mamba_ssm.ops").x == 1
    with pytest.raises(ModuleNotFoundError):  # nor is anything of ours mixed into it
        importlib.import_module("mamba_ssm.modules")
    assert lifter.compat.install()["causal_conv1d_cuda"].startswith("left: ")  # imported by now


def test_an_original_found_by_a_later_finder_is_not_shadowed_either(installed):
    """Stand-ins lie as in an editable installation."""

    class Editable:
        @staticmethod
        def find_spec(name, path=None, target=None):
            return importlib.util.spec_from_file_location(name, __file__) if name == "causal_conv1d" else None

    sys.meta_path.append(Editable)
    try:
        assert lifter.compat.install()["causal_conv1d"] == f"left: {__file__} is there"
    finally:
        sys.meta_path.remove(Editable)


def test_override(originals):
    theirs = importlib.import_module("causal_conv1d_cuda")
    assert set(lifter.compat.install(override=True).values()) == {"provided by lifter"}
    assert callable(importlib.import_module("causal_conv1d_cuda").causal_conv1d_fwd)
    lifter.compat.uninstall()
    assert importlib.import_module("causal_conv1d_cuda") is theirs


@pytest.fixture(autouse=True)
def seeded():
    """The order of tests decides nothing."""
    torch.manual_seed(0)


# ---- selective_scan_cuda and its kin ---------------------------------------------------------------------------------


def scan_inputs(batch=2, dim=12, length=19, states=5, groups=3, dtype=torch.float32, seed=0):
    g = torch.Generator().manual_seed(seed)
    randn = lambda *shape: torch.randn(*shape, generator=g)
    row = (dim, states) if groups is None else (batch, groups, states, length)
    B, C = (randn(*row) if groups is None else randn(*row).to(dtype) for _ in range(2))
    u, delta = randn(batch, dim, length).to(dtype), (0.3 * randn(batch, dim, length)).to(dtype)
    return [u, delta, -2 * torch.rand(dim, states, generator=g), B, C, randn(dim), 0.1 * randn(dim)]


def expected(tensors, dout, softplus, z=None, dtype=torch.float64):
    """Compute by the reference and autograd: out, last state, gradients with z's last (None where a tensor is)."""
    leaves = [None if x is None else x.detach().to(dtype).requires_grad_() for x in (*tensors, z)]
    u, delta, A, B, C, D, delta_bias, gate = leaves
    repeats = u.shape[1] // delta.shape[1]
    wide = delta.repeat_interleave(repeats, 1), None if delta_bias is None else delta_bias.repeat_interleave(repeats)
    out, state = selective_scan_ref(u, wide[0], A, B, C, D, gate, wide[1], softplus, return_last_state=True)
    grads = iter(torch.autograd.grad(out, [x for x in leaves if x is not None], dout.to(dtype)))
    return out.detach(), state.detach(), [None if x is None else next(grads) for x in leaves]


def check_all(ours, theirs, exact, like):
    for i, (a, b, c, x) in enumerate(zip(ours, theirs, exact, like, strict=True)):
        assert (a is None) == (c is None), i
        if a is not None:
            assert a.dtype == x.dtype and a.shape == x.shape, i
            assert_as_good(str(i), a.float(), b.to(a.dtype).float(), c, dtype=a.dtype)


@pytest.mark.parametrize("options", [{}, {"groups": None}, {"groups": 1, "length": 130}, {"dtype": torch.bfloat16}], ids=str)
@pytest.mark.parametrize("optional", [True, False])
def test_selective_scan_cuda(installed, options, optional):
    import selective_scan_cuda

    tensors = scan_inputs(**options)
    if not optional:
        tensors[5:] = [None, None]
    u = tensors[0]
    dout = torch.randn(u.shape).to(u.dtype)
    out, x = selective_scan_cuda.fwd(*tensors[:6], None, tensors[6], True)
    grads = selective_scan_cuda.bwd(*tensors[:6], None, tensors[6], dout, x, None, None, True, False)
    exact, theirs = (expected(tensors, dout, True, dtype=dtype) for dtype in (torch.float64, torch.float32))
    assert_as_good("out", out.float(), theirs[0].to(u.dtype).float(), exact[0], dtype=u.dtype)
    assert_as_good("last state", x[:, :, -1, 1::2], theirs[1], exact[1])
    check_all(grads, theirs[2][:7], exact[2][:7], tensors)


def test_selective_scan_cuda_with_a_gate(installed):
    import selective_scan_cuda

    tensors = scan_inputs()
    z, dout = torch.randn(2, *tensors[0].shape)
    out, x, out_z = selective_scan_cuda.fwd(*tensors[:6], z, tensors[6], False)
    torch.testing.assert_close(out_z, out * F.silu(z))
    dz = torch.empty_like(z)
    *grads, dz_returned, again = selective_scan_cuda.bwd(*tensors[:6], z, tensors[6], dout, x, out, dz, False, True)
    assert dz_returned is dz
    exact, theirs = (expected(tensors, dout, False, z, dtype) for dtype in (torch.float64, torch.float32))
    check_all([*grads, dz, again], [*theirs[2], theirs[0]], [*exact[2], exact[0]], [*tensors, z, out])


@pytest.mark.parametrize("name", ["selective_scan_cuda_core", "selective_scan_cuda_oflex"])
@pytest.mark.parametrize("shared", [False, True])
def test_vmambas_extensions(installed, name, shared):
    extension = importlib.import_module(name)
    flags = (True,) if name.endswith("oflex") else ()
    tensors = scan_inputs(dtype=torch.bfloat16)
    if shared:  # one time step for every three channels
        tensors[1], tensors[6] = tensors[1][:, ::3].contiguous(), tensors[6][::3].contiguous()
    dout = torch.randn(tensors[0].shape)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # their calls name their dtypes, whatever is around them
        out, x = extension.fwd(*tensors, True, 1, *flags)
        grads = extension.bwd(*tensors, dout, x, True, 1)
    assert out.dtype == (torch.float32 if flags else torch.bfloat16)
    exact, theirs = (expected(tensors, dout, True, dtype=dtype) for dtype in (torch.float64, torch.float32))
    assert_as_good("out", out.float(), theirs[0].to(out.dtype).float(), exact[0], dtype=out.dtype)
    rounded = expected(tensors, dout.bfloat16(), True)  # the gradient of the output comes in the input's dtype
    check_all(grads, [None if g is None else g.to(x.dtype) for g, x in zip(rounded[2], tensors)], exact[2][:7], tensors)


def test_errors_name_the_argument(installed):
    import selective_scan_cuda

    tensors = scan_inputs()
    with pytest.raises(ValueError, match="B has shape"):
        selective_scan_cuda.fwd(*tensors[:3], tensors[3][:, :, :-1], *tensors[4:6], None, tensors[6], True)
    with pytest.raises(TypeError, match="A has dtype torch.complex64"):
        selective_scan_cuda.fwd(*tensors[:2], tensors[2] + 0j, *tensors[3:6], None, tensors[6], True)


# ---- causal_conv1d ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("states", [True, False])
def test_causal_conv1d_cuda(installed, silu, states):
    """Both forms of the extension: results returned, and results written."""
    import causal_conv1d_cuda as extension

    g = torch.Generator().manual_seed(0)
    x, dout = torch.randn(2, 2, 6, 11, generator=g)
    weight, bias = torch.randn(6, 4, generator=g), torch.randn(6, generator=g)
    initial, dfinal = torch.randn(2, 2, 6, 3, generator=g) if states else (None, None)
    activation = "silu" if silu else None

    final = torch.empty(2, 6, 3) if states else None
    out = extension.causal_conv1d_fwd(x, weight, bias, None, initial, final, silu)
    leaves = [t for t in (x, weight, bias, initial) if t is not None]
    exact = [t.double().requires_grad_() for t in leaves]
    x64, weight64, bias64, *initial64 = exact
    result = causal_conv1d_ref(x64, weight64, bias64, None, *initial64 or [None], states, None, activation)
    results, cotangents = (result, (dout.double(), dfinal.double())) if states else ((result,), (dout.double(),))
    torch.testing.assert_close(out, results[0].float())
    if states:
        torch.testing.assert_close(final, results[1].float())
    wanted = [g.float() for g in torch.autograd.grad(results, exact, cotangents)]
    grads = extension.causal_conv1d_bwd(x, weight, bias, dout, None, initial, dfinal, None, states, silu)
    torch.testing.assert_close([g for g in grads if g is not None], wanted)

    written, final2 = torch.empty_like(out), None if final is None else torch.empty_like(final)
    assert extension.causal_conv1d_fwd(x, weight, bias, None, initial, written, final2, silu) is None
    places = [torch.empty_like(t) for t in leaves] + ([] if states else [None])
    dx, *more = places
    assert extension.causal_conv1d_bwd(x, weight, bias, dout, None, initial, dfinal, dx, *more, silu) is None
    assert torch.equal(written, out) and all(torch.equal(a, b) for a, b in zip(places, grads) if a is not None)


@pytest.mark.parametrize("packed", [(), (None,), (torch.tensor([[0] * 5 + [1] * 6] * 2, dtype=torch.int32),)])
def test_causal_conv1d_cuda_of_1_0_and_1_1(installed, packed):
    """Their calls have four and five arguments."""
    import causal_conv1d_cuda as extension

    g = torch.Generator().manual_seed(0)
    x, dout = torch.randn(2, 2, 6, 11, generator=g)
    weight, bias, dx = torch.randn(6, 4, generator=g), torch.randn(6, generator=g), torch.empty(2, 6, 11)
    numbers = packed[0] if packed else None
    out = extension.causal_conv1d_fwd(x, weight, bias, *packed, True)
    assert torch.equal(out, extension.causal_conv1d_fwd(x, weight, bias, numbers, None, None, True))
    for place in (None, dx):
        grads = extension.causal_conv1d_bwd(x, weight, bias, dout, *packed, place, True)
        *expected, _ = extension.causal_conv1d_bwd(x, weight, bias, dout, numbers, None, None, None, False, True)
        assert len(grads) == 3 and all(map(torch.equal, grads, expected))
    assert grads[0] is dx


def test_causal_conv1d_update(installed):
    import causal_conv1d_cuda as extension

    x, weight, state = torch.randn(2, 6), torch.randn(6, 4), torch.randn(2, 6, 4)
    first, second, out = state.clone(), state.clone(), torch.empty_like(x)
    returned = extension.causal_conv1d_update(x, first, weight, None, True, None, None)
    for cache_seqlens in ((), (None,)):  # as of versions before 1.5
        assert torch.equal(extension.causal_conv1d_update(x, state.clone(), weight, None, True, *cache_seqlens), returned)
    assert extension.causal_conv1d_update(x, second, weight, None, out, True, None, None) is None
    expected = causal_conv1d_ref(x[..., None], weight, initial_states=state[..., 1:], activation="silu")[..., 0]
    torch.testing.assert_close(returned, expected)
    assert torch.equal(out, returned) and torch.equal(first, second) and torch.equal(first[..., -1], x)


def test_causal_conv1d_varlen_states(installed):
    from causal_conv1d.causal_conv1d_varlen import causal_conv1d_varlen_states

    x = torch.arange(1.0, 8)[:, None].expand(-1, 2)
    states = causal_conv1d_varlen_states(x, torch.tensor([0, 1, 5, 7]), 3)
    assert states[:, 0].tolist() == [[0, 0, 1], [3, 4, 5], [0, 6, 7]] and torch.equal(states[:, 0], states[:, 1])


# ---- mamba_ssm.ops ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norms", [False, True])
def test_mamba_inner_fn(installed, norms):
    from mamba_ssm.ops.selective_scan_interface import mamba_inner_fn

    batch, dim, length, states, rank, width = 2, 8, 13, 4, 3, 6
    g = torch.Generator().manual_seed(0)
    shapes = dict(
        xz=(batch, 2 * dim, length), conv1d_weight=(dim, 1, 4), conv1d_bias=(dim,), x_proj_weight=(rank + 2 * states, dim),
        delta_proj_weight=(dim, rank), out_proj_weight=(width, dim), out_proj_bias=(width,), A=(dim, states), D=(dim,),
        delta_bias=(dim,), B_proj_bias=(states,), C_proj_bias=(states,),
    )  # fmt: skip
    if norms:
        shapes |= dict(b_rms_weight=(states,), c_rms_weight=(states,), dt_rms_weight=(dim,))
    tensors = {name: torch.randn(shape, generator=g) for name, shape in shapes.items()}
    tensors["A"] = -tensors["A"].abs()

    def rms(x, weight):
        return x if weight is None else x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight

    def plain(xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, out_proj_weight, out_proj_bias, A, D,
              delta_bias, B_proj_bias, C_proj_bias, b_rms_weight=None, c_rms_weight=None, dt_rms_weight=None):  # fmt: skip
        x, z = xz.chunk(2, 1)
        x = F.silu(F.conv1d(F.pad(x, (3, 0)), conv1d_weight, conv1d_bias, groups=dim)).transpose(1, 2)
        dt, B, C = (x @ x_proj_weight.T).split([rank, states, states], -1)
        delta = rms(dt @ delta_proj_weight.T, dt_rms_weight)
        B, C = rms(B + B_proj_bias, b_rms_weight), rms(C + C_proj_bias, c_rms_weight)
        maps = (t.transpose(1, 2) for t in (x, delta))
        y = selective_scan_ref(*maps, A, B.transpose(1, 2), C.transpose(1, 2), D, z, delta_bias, True)
        return y.transpose(1, 2) @ out_proj_weight.T + out_proj_bias

    def run(function, dtype):
        leaves = {name: t.to(dtype).requires_grad_() for name, t in tensors.items()}
        out = function(**leaves)
        return [out, *torch.autograd.grad(out.square().sum(), list(leaves.values()))]

    exact, theirs, ours = run(plain, torch.float64), run(plain, torch.float32), run(mamba_inner_fn, torch.float32)
    for name, *found in zip(["out", *tensors], ours, theirs, exact):
        assert_as_good(name, *(t.detach() for t in found))


def mixer(constant=(), dtype=torch.float32):
    """Arguments of mamba_inner_fn: batch 2, 8 channels, 13 steps, 4 states, rank 3."""
    g = torch.Generator().manual_seed(0)
    randn = lambda *shape: torch.randn(*shape, generator=g).to(dtype)
    rows = 3 + 4 * (2 - len(constant))
    arguments = dict(
        xz=randn(2, 16, 13), conv1d_weight=randn(8, 1, 4), conv1d_bias=randn(8), x_proj_weight=randn(rows, 8),
        delta_proj_weight=randn(8, 3), out_proj_weight=randn(6, 8), out_proj_bias=randn(6), A=-randn(8, 4).abs().float(),
    )  # fmt: skip
    return arguments | {name: randn(8, 4).float() for name in constant}


@pytest.mark.parametrize("constant", ["B", "C", "BC"])
def test_mamba_inner_fn_with_constants(installed, constant):
    """x_proj_weight has rows for what varies, the time step first."""
    from mamba_ssm.ops.selective_scan_interface import mamba_inner_fn

    arguments = mixer(constant)
    rows = list(arguments["x_proj_weight"].split([3, *[4] * (2 - len(constant))]))
    everything = [rows.pop(0), *(torch.zeros(4, 8) if name in constant else rows.pop(0) for name in "BC")]
    x, z = arguments["xz"].chunk(2, 1)
    x = causal_conv1d_ref(x, arguments["conv1d_weight"][:, 0], arguments["conv1d_bias"], activation="silu")
    dt, B, C = (x.mT @ torch.cat(everything).T).split([3, 4, 4], -1)
    B, C = (arguments.get(name, y.mT) for name, y in (("B", B), ("C", C)))
    y = selective_scan_ref(x, (dt @ arguments["delta_proj_weight"].T).mT, arguments["A"], B, C, None, z, None, True)
    expected = F.linear(y.mT, arguments["out_proj_weight"], arguments["out_proj_bias"])
    torch.testing.assert_close(mamba_inner_fn(**arguments), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("rows", [10, 12])
def test_mamba_inner_fn_with_other_rows(installed, rows):
    from mamba_ssm.ops.selective_scan_interface import mamba_inner_fn

    shapes = (2, 16, 5), (8, 1, 4), (8,), (rows, 8), (8, 3), (6, 8), (6,), (8, 4)
    with pytest.raises(ValueError, match=rf"mamba_inner_fn: x_proj_weight has shape \({rows}, 8\), expected \(11, 8\)"):
        mamba_inner_fn(*map(torch.zeros, shapes))


@pytest.mark.parametrize("last", [False, True])
def test_mamba_inner_fn_with_a_wider_bias(installed, last):
    """The state as transformers gives it, in both layouts."""
    from mamba_ssm.ops.selective_scan_interface import mamba_inner_fn

    arguments = mixer(dtype=torch.bfloat16)
    if last:
        arguments["xz"] = arguments["xz"].mT.contiguous().mT
    expected = mamba_inner_fn(**arguments)
    assert torch.equal(mamba_inner_fn(**arguments | {"out_proj_bias": arguments["out_proj_bias"].float()}), expected)


@pytest.mark.parametrize("contiguous", [True, False])
def test_state_update_with_heads(installed, contiguous):
    from mamba_ssm.ops.triton.selective_state_update import selective_state_update

    batch, heads, dim, states, groups = 3, 4, 5, 6, 2
    g = torch.Generator().manual_seed(0)
    randn = lambda *shape: torch.randn(*shape, generator=g)
    state = randn(batch, heads, dim, states) if contiguous else randn(batch, dim, heads, states).transpose(1, 2)
    x, dt, z = (randn(batch, heads, dim) for _ in range(3))
    A, D, bias = -randn(heads, dim, states).abs(), randn(heads, dim), randn(heads, dim)
    B, C = randn(batch, groups, states), randn(batch, groups, states)
    before = state.clone()
    out = selective_state_update(state, x, dt, A, B, C, D, z, bias, True)
    for head in range(heads):
        expected = before[:, head].clone()
        row = (t[:, head // (heads // groups)] for t in (B, C))
        args = x[:, head], dt[:, head], A[head], *row, D[head], z[:, head], bias[head], True
        torch.testing.assert_close(out[:, head], selective_state_update_ref(expected, *args))
        torch.testing.assert_close(state[:, head], expected)

    picked = torch.tensor([2, 0])
    states_of_all = before.clone()
    some = (t[:2] for t in (x, dt))
    again = selective_state_update(states_of_all, *some, A, B[:2], C[:2], D, z[:2], bias, True, state_batch_indices=picked)
    expected = before[picked]
    torch.testing.assert_close(
        again, selective_state_update(expected, x[:2], dt[:2], A, B[:2], C[:2], D, z[:2], bias, True)
    )
    torch.testing.assert_close(states_of_all[picked], expected)
    assert torch.equal(states_of_all[1], before[1])


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(x=torch.zeros(3, 5, 4)), ValueError, r"x has shape \(3, 5, 4\), expected \(3, 4, 5\)"),
        (dict(A=torch.zeros(5, 4, 6)), ValueError, r"A has shape \(5, 4, 6\), expected \(4, 5, 6\)"),
        (dict(D=torch.zeros(5, 4)), ValueError, r"D has shape \(5, 4\), expected \(4, 5\)"),
        (dict(B=torch.zeros(3, 5, 6)), ValueError, "B has 5 groups, which do not divide the 4 heads of x"),
        (dict(state=torch.zeros(5, 6)), ValueError, r"state has shape \(5, 6\), expected \(B, D, N\)"),
        (dict(state_batch_indices=[0, 1, 2]), TypeError, "state_batch_indices has dtype list, expected torch.int32 or"),
        (dict(state_batch_indices=torch.arange(2)), ValueError, r"state_batch_indices has shape \(2,\), expected \(3,\)"),
        (dict(state=torch.zeros(1, 4, 5, 6).expand(3, -1, -1, -1), state_batch_indices=torch.arange(3)), ValueError,
         "state has strides .* clone it"),
    ],
)  # fmt: skip
def test_state_update_with_heads_of_wrong_shapes(installed, change, error, message):
    """Shapes that have as many numbers, too."""
    from mamba_ssm.ops.triton.selective_state_update import selective_state_update

    shapes = dict(state=(3, 4, 5, 6), x=(3, 4, 5), dt=(3, 4, 5), A=(4, 5, 6), B=(3, 6), C=(3, 2, 6))
    arguments = {name: torch.zeros(shape) for name, shape in shapes.items()}
    selective_state_update(**arguments)
    with pytest.raises(error, match=f"selective_state_update: {message}"):
        selective_state_update(**arguments | change)


@pytest.mark.parametrize("heads", [(), (2,)])
def test_state_update_of_padding(installed, heads):
    """Sequences without a row of the states get zeros, and change none."""
    from mamba_ssm.ops.triton.selective_state_update import selective_state_update

    g = torch.Generator().manual_seed(0)
    randn = lambda *shape: torch.randn(*shape, generator=g)
    rows = torch.tensor([-1, 2, -1, 0], dtype=torch.int32)
    state, x, dt = randn(3, *heads, 6, 5), randn(4, *heads, 6), randn(4, *heads, 6)
    A, B, C = -randn(*heads, 6, 5).abs(), randn(4, 5), randn(4, 5)
    if heads:
        B, C = B[:, None], C[:, None]
    alone, used = state[[2, 0]], rows >= 0
    expected = selective_state_update(alone, *(y[used] for y in (x, dt)), A, B[used], C[used])
    before = state.clone()
    out = selective_state_update(state, x, dt, A, B, C, state_batch_indices=rows)
    assert torch.equal(out[used], expected) and not out[~used].any()
    assert torch.equal(state, torch.stack([alone[1], before[1], alone[0]]))
