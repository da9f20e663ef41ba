"""`lifter.optimize` on modules that look like other people's: what is swapped, that nothing changes, what is left."""

import copy
import pickle
import re
import sys
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lifter
import lifter.layers
from lifter.kernels import causal_conv1d_fn, causal_conv1d_update, selective_scan_fn, selective_state_update
from lifter.rewrite.engine import is_extended
from lifter.rewrite.rules import attention, mixers, scans


def seeded(module, seed=0):
    """Every parameter redrawn: none is constant."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=g) * (p.shape[-1] ** -0.5 if p.dim() > 1 else 0.3))
    return module.eval()


def outputs_and_gradients(module, x, *args):
    x = x.clone().requires_grad_()
    out = module(x, *args)
    named = dict(module.named_parameters())
    grads = torch.autograd.grad(out.square().sum(), [x, *named.values()])
    return dict(zip(["out", "input", *named], [out.detach(), *grads]))


def check(module, x, *args, mixin):
    """Swapped, and with the methods of `mixin`; the same numbers, keys, parameters; copies and pickles work, and a second call
    changes nothing."""
    theirs = copy.deepcopy(module)
    keys, parameters = list(module.state_dict()), dict(module.named_parameters())
    report = lifter.optimize(module)
    assert len(report.swapped) == 1 and not report.left and "verified" in str(report), str(report)
    assert list(module.state_dict()) == keys
    assert all(p is parameters[name] for name, p in module.named_parameters())
    assert any(is_extended(m) and mixin in type(m).__mro__ for m in module.modules())
    expected = outputs_and_gradients(theirs, x, *args)
    for swapped in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        found = outputs_and_gradients(swapped, x, *args)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, atol=1e-5 * value.abs().max().item(), rtol=1e-4, msg=name)
    with torch.no_grad():
        torch.testing.assert_close(module(x, *args), expected["out"], atol=1e-5, rtol=1e-4)
    again = lifter.optimize(module)
    assert not again.swapped and "before" in str(again)


# ---- attention -------------------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """The parts of MixSTE's, MotionBERT's and MotionAGFormer's blocks; the children differ in `forward`."""

    def __init__(self, dim=24, num_heads=3, scale=None, mode=None):
        super().__init__()
        self.num_heads, self.scale = num_heads, scale or (dim // num_heads) ** -0.5
        if mode:
            self.mode = mode
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.attn_drop, self.proj_drop = nn.Dropout(0.1), nn.Dropout(0.1)

    def attend(self, x):
        """(..., N, C)"""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).movedim(-3, 0).transpose(-3, -2)
        weights = self.attn_drop((q @ k.transpose(-1, -2) * self.scale).softmax(-1))
        return self.proj_drop(self.proj((weights @ v).transpose(-3, -2).flatten(-2)))


class Tokens(Attention):
    comb = False

    def forward(self, x, vis=False):
        return self.attend(x)


class Sequence(Attention):
    def forward(self, x, seqlen=1):
        if self.mode == "spatial":
            return self.attend(x)
        return self.attend(x.unflatten(0, (-1, seqlen)).transpose(1, 2)).transpose(1, 2).flatten(0, 1)


class Grid(Attention):
    def forward(self, x):
        return self.attend(x) if self.mode == "spatial" else self.attend(x.transpose(1, 2)).transpose(1, 2)


@pytest.mark.parametrize(
    "module, shape, args, mixin",
    [
        (Tokens(), (4, 17, 24), (), attention.Tokens),
        (Tokens(scale=0.7), (2, 81, 24), (True,), attention.Tokens),
        (Sequence(mode="spatial"), (6, 5, 24), (3,), attention.Tokens),
        (Sequence(mode="temporal"), (14, 5, 24), (7,), attention.Frames),
        (Grid(mode="spatial"), (2, 7, 5, 24), (), attention.GridJoints),
        (Grid(mode="temporal"), (2, 7, 5, 24), (), attention.GridFrames),
    ],
)
def test_attention(module, shape, args, mixin):
    model = nn.Sequential(seeded(module)) if not args else seeded(module)
    check(model, torch.randn(shape, generator=torch.Generator().manual_seed(1)), *args, mixin=mixin)


class Causal(Tokens):
    """Looks the same and is not."""

    def attend(self, x):
        return super().attend(x.cumsum(-2))


class Keeps(Tokens):
    def forward(self, x, vis=False):
        self.seen = x
        return self.attend(x)


class Collects(Tokens):
    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x, vis=False):
        self.seen.append(x)
        return self.attend(x)


class Biased(Tokens):
    """A buffer that does nothing until it is filled."""

    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.zeros(24))

    def attend(self, x):
        return super().attend(x) + self.table


class Masked(Tokens):
    def forward(self, x, mask):
        return self.attend(x)


class Crashes(Tokens):
    def forward(self, x, vis=False):
        raise NotImplementedError("no")


class Long(Tokens):
    """Another function of long inputs, in training as in evaluation."""

    def attend(self, x):
        return super().attend(x.cumsum(-2) if x.shape[-2] > 200 else x)


class Trained(Tokens):
    def attend(self, x):
        return super().attend(2 * x if self.training else x)


def lora(module):
    module.qkv = type("Adapted", (nn.Linear,), {})(24, 72)
    return module


def replaced(module):
    module.forward = module.attend
    return module


def uncopiable(module):
    module.last = module.proj.weight * 2  # a tensor that is not a leaf
    return module


@pytest.mark.parametrize(
    "module, why",
    [
        (Causal(), "its output differs from lifter's by"),
        (Long(), "its output differs from lifter's by"),
        (Trained(), "in training its output differs from lifter's by"),
        (Keeps(), "keeps something"),
        (Collects(), "keeps something"),
        (Biased(), "more than its projections: table"),
        (Tokens(scale=nn.Parameter(torch.tensor(0.3))), "more than its projections: scale"),
        (Masked(), "takes \\(x, mask\\)"),
        (Crashes(), "does not run here \\(NotImplementedError: no\\)"),
        (lora(Tokens()), "its qkv is Adapted"),
        (replaced(Tokens()), "replaced before"),
        (Grid(mode="coupling"), "its mode is 'coupling'"),
        (Tokens(dim=520, num_heads=2), "heads have 260 channels"),
        (Tokens().to("meta"), "meta"),
        (uncopiable(Tokens()), "cannot be copied"),
    ],
)
def test_what_is_left(module, why):
    before = dict(vars(module))
    report = lifter.optimize(nn.ModuleDict({"block": module}))
    assert list(report.left) == ["block"] and not report.swapped
    assert re.search(why, report.left["block"]), report.left
    assert vars(module) == before


def test_hooks_that_would_not_run():
    module = Tokens()
    module.attn_drop.register_forward_hook(lambda *args: None)
    assert "hooks" in lifter.optimize(module).left["Tokens"]
    module = seeded(Tokens())
    seen = []
    module.register_forward_hook(lambda *args: seen.append(1))  # one that runs
    assert lifter.optimize(module).swapped and seen == []
    module(torch.randn(2, 5, 24))
    assert seen == [1]


def test_attention_along_the_channels_is_left():
    module = Tokens()
    module.comb = True
    assert "comb=True" in lifter.optimize(module).left["Tokens"]


def test_the_check_leaves_no_trace():
    """Gradients, modes, dtype and random numbers stay; it compares in float32 whatever the dtype."""
    module = seeded(Tokens()).bfloat16()
    module.train()
    module.qkv.weight.requires_grad_(False)
    state = torch.get_rng_state()
    assert lifter.optimize(module).swapped == ["Tokens"]
    assert torch.equal(torch.get_rng_state(), state)
    assert module.training and module.proj_drop.training and not module.qkv.weight.requires_grad
    assert all(p.grad is None and p.dtype == torch.bfloat16 for p in module.parameters())
    x = torch.randn(2, 5, 24).bfloat16()
    assert module(x).dtype == torch.bfloat16 and not torch.equal(module(x), module(x))  # dropout


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_the_check_runs_in_any_mode(mode):
    with mode():
        assert lifter.optimize(seeded(Tokens())).swapped == ["Tokens"]


def test_nothing_to_do_and_no_module():
    report = lifter.optimize(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    assert report == [] and str(report) == "nothing recognised"
    assert lifter.optimize(lifter.layers.Mamba(8)) == []  # ours
    with pytest.raises(TypeError, match="model is int"):
        lifter.optimize(3)


def test_compiles():
    model = nn.Sequential(seeded(Tokens()))
    x = torch.randn(2, 5, 24)
    lifter.optimize(model)
    torch.testing.assert_close(torch.compile(model, backend="eager", fullgraph=True)(x), model(x))


# ---- scans in four directions ----------------------------------------------------------------------------------------

LIMBS = [0, 0, 1, 2, 3, 0, 4, 5, 6, 8, 11, 12, 13, 8, 14, 15, 16]


class CrossScan(torch.autograd.Function):
    """(B, C, T, J) -> (B, 4, C, L); the children's backward, as the official ones', ignores what they add."""

    added = ()

    @classmethod
    def added_to(cls, x):
        return sum((x[..., joints] for joints in cls.added), x)

    @classmethod
    def walks(cls, x):
        two = torch.stack([cls.added_to(x).flatten(2), x.transpose(2, 3).flatten(2)], 1)
        return torch.cat([two, two.flip(-1)], 1)

    @staticmethod
    def forward(ctx, x):
        ctx.shape = x.shape
        return CrossScan.walks(x)

    @staticmethod
    def backward(ctx, ys):
        B, C, T, J = ctx.shape
        two = ys[:, :2] + ys[:, 2:].flip(-1)
        return two[:, 0].unflatten(-1, (T, J)) + two[:, 1].unflatten(-1, (J, T)).transpose(-1, -2)


class CrossScan_plus_poselimbs(CrossScan):
    added = (LIMBS,)

    @staticmethod
    def forward(ctx, x):
        ctx.shape = x.shape
        return CrossScan_plus_poselimbs.walks(x)


class CrossScan_plus_poselimbsv2(CrossScan):
    added = ([2 * (v // 2) for v in range(17)], [3 * (v // 3) for v in range(17)])

    @staticmethod
    def forward(ctx, x):
        ctx.shape = x.shape
        return CrossScan_plus_poselimbsv2.walks(x)


class CrossScan_sideways(CrossScan):
    pass


class ChannelsFirst(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class SS2D(nn.Module):
    """VMamba's and PoseMamba's module in short."""

    def __init__(self, dim=8, states=3, rank=2, channel_first=False, packed=True, directions=4, **options):
        super().__init__()
        inner, K = 2 * dim, directions
        self.channel_first = channel_first
        self.in_proj, self.out_proj = nn.Linear(dim, inner), nn.Linear(inner, dim)
        self.out_norm = ChannelsFirst(inner) if channel_first else nn.LayerNorm(inner)
        if packed:
            self.x_proj_weight = nn.Parameter(torch.empty(K, rank + 2 * states, inner))
            self.dt_projs_weight = nn.Parameter(torch.empty(K, inner, rank))
        else:
            self.x_proj, self.dt_projs = nn.Module(), nn.Module()
            self.x_proj.weight = nn.Parameter(torch.empty(K * (rank + 2 * states), inner))
            self.dt_projs.weight = nn.Parameter(torch.empty(K * inner, rank))
        self.dt_projs_bias = nn.Parameter(torch.empty(K, inner))
        self.A_logs, self.Ds = nn.Parameter(torch.empty(K * inner, states)), nn.Parameter(torch.empty(K * inner))
        self.forward_core = partial(self.forward_corev2, **options)

    def forward_corev2(self, x, CrossScan=CrossScan, scan_mode="cross2d", cascade2d=False):
        B, C, T, J = x.shape
        K = len(self.dt_projs_bias)
        xs = CrossScan.apply(x)[:, :K]
        x_proj = self.x_proj_weight if hasattr(self, "x_proj_weight") else self.x_proj.weight.view(K, -1, C)
        dt_proj = self.dt_projs_weight if hasattr(self, "dt_projs_weight") else self.dt_projs.weight.view(K, C, -1)
        N = self.A_logs.shape[1]
        dt, Bs, Cs = torch.einsum("bkcl,kpc->bkpl", xs, x_proj).split([dt_proj.shape[2], N, N], 2)
        ys = selective_scan_fn(
            xs.flatten(1, 2), torch.einsum("bkrl,kcr->bkcl", dt, dt_proj).flatten(1, 2), -self.A_logs.exp(), Bs, Cs, self.Ds,
            delta_bias=self.dt_projs_bias.flatten(), delta_softplus=True,
        ).view(B, K, C, -1)  # fmt: skip
        two = ys[:, :2] + ys[:, 2:].flip(-1) if K == 4 else ys
        y = two[:, 0].unflatten(-1, (T, J)) + two[:, 1].unflatten(-1, (J, T)).transpose(-1, -2)
        return self.out_norm(y if self.channel_first else y.movedim(1, -1))

    def forward(self, x):
        x = x.movedim(1, -1) if self.channel_first else x
        y = self.forward_core(F.silu(self.in_proj(x)).movedim(-1, 1))
        y = self.out_proj(y.movedim(1, -1) if self.channel_first else y)
        return y.movedim(-1, 1) if self.channel_first else y


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    "options, joints",
    [({}, 6), ({"CrossScan": CrossScan_plus_poselimbs}, 17), ({"CrossScan": CrossScan_plus_poselimbsv2}, 17),
     ({"scan_mode": "cross2d"}, 3)],
)  # fmt: skip
def test_scans(options, joints, packed):
    x = torch.randn(2, 7, joints, 8, generator=torch.Generator().manual_seed(1))
    check(nn.Sequential(seeded(SS2D(packed=packed, **options))), x, mixin=scans.Scan)


def test_scan_with_channels_first():
    check(seeded(SS2D(channel_first=True)), torch.randn(2, 8, 5, 6), mixin=scans.Scan)


@pytest.mark.parametrize(
    "module, why",
    [
        (SS2D(CrossScan=CrossScan_sideways), "CrossScan_sideways, is not known"),
        (SS2D(cascade2d=True), "does not scan in four directions"),
        (SS2D(scan_mode="bidi"), "does not scan in four directions"),
        (SS2D(directions=2), "2 groups of weights"),
    ],
)
def test_scans_that_are_left(module, why):
    assert why in lifter.optimize(seeded(module)).left["SS2D"]


# ---- Mamba -----------------------------------------------------------------------------------------------------------


class Mixer(nn.Module):
    """mamba-ssm's module in short; `selective_scan_fn` and the others are names of this file, as they are of its."""

    def __init__(self, dim=8, states=4, rank=3, broken=False):
        super().__init__()
        inner = 2 * dim
        self.rank, self.states = rank, states
        self.in_proj, self.out_proj = nn.Linear(dim, 2 * inner, bias=False), nn.Linear(inner, dim, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, 4, groups=inner, padding=3)
        self.x_proj, self.dt_proj = nn.Linear(inner, rank + 2 * states, bias=False), nn.Linear(rank, inner)
        self.act = nn.SiLU()
        self.A_log, self.D = nn.Parameter(torch.empty(inner, states)), nn.Parameter(torch.empty(inner))

    def forward(self, hidden_states, inference_params=None):
        x, z = self.in_proj(hidden_states).transpose(1, 2).chunk(2, 1)
        x = slow_convolution(x, self.conv1d.weight.squeeze(1), self.conv1d.bias, activation="silu")
        dt, B, C = self.x_proj(x.transpose(1, 2)).split([self.rank, self.states, self.states], -1)
        A = -self.A_log.exp()
        dt, B, C = (self.dt_proj.weight @ dt.transpose(1, 2)), B.transpose(1, 2), C.transpose(1, 2)
        return self.out_proj(selective_scan_fn(x, dt, A, B, C, self.D, z, self.dt_proj.bias, True).transpose(1, 2))

    def step(self, x, conv_state, ssm_state):
        x, z = self.in_proj(x[:, 0]).chunk(2, -1)
        x = causal_conv1d_update(x, conv_state, self.conv1d.weight.squeeze(1), self.conv1d.bias, "silu")
        dt, B, C = self.x_proj(x).split([self.rank, self.states, self.states], -1)
        dt, A = dt @ self.dt_proj.weight.T, -self.A_log.exp()
        return self.out_proj(
            selective_state_update(ssm_state, x, dt, A, B, C, self.D, z, self.dt_proj.bias, True)
        )[:, None]


slow_convolution = causal_conv1d_fn


def test_mixer_of_mamba_ssm(monkeypatch):
    module = seeded(Mixer())
    x = torch.randn(2, 9, 8)
    check(copy.deepcopy(module), x, mixin=mixers.Mixer)

    def missing(*args, **kwargs):
        raise RuntimeError("selective_scan_cuda is not installed")

    expected = module(x).detach()
    for name in ("selective_scan_fn", "selective_state_update", "causal_conv1d_update"):
        monkeypatch.setattr(sys.modules[__name__], name, missing)
    report = lifter.optimize(module)
    assert "verified on the reference: its own code does not run here (RuntimeError: selective_scan_cuda" in str(report)
    torch.testing.assert_close(module(x), expected)
    conv_state, ssm_state = torch.zeros(2, 16, 4), torch.zeros(2, 16, 4)
    steps = [module.step(x[:, i : i + 1], conv_state, ssm_state) for i in range(9)]
    torch.testing.assert_close(torch.cat(steps, 1), expected, atol=1e-5, rtol=1e-4)


def test_a_mixer_that_our_ops_do_not_take_is_left():
    module = Mixer()
    module.conv1d = nn.Conv1d(16, 16, 5, groups=16, padding=4)
    assert re.search(r"do not take it \(ValueError: .* width of 2 to 4", lifter.optimize(module).left["Mixer"])


def test_a_mixer_with_more_in_it_is_left():
    module = Mixer()
    module.A_b_log = nn.Parameter(torch.zeros(16, 4))  # Vision Mamba's second direction
    assert "more than a Mamba mixer: A_b_log" in lifter.optimize(module).left["Mixer"]


# ---- replicas --------------------------------------------------------------------------------------------------------


def replica(module, parameters, prefix=""):
    """A module as `nn.DataParallel` makes it, with other parameters."""
    twin = module._replicate_for_data_parallel()
    for name in module._parameters:
        setattr(twin, name, parameters.get(prefix + name))
    for name, child in module._modules.items():
        twin._modules[name] = replica(child, parameters, f"{prefix}{name}.")
    return twin


@pytest.mark.parametrize(
    "module, shape",
    [(Tokens(), (2, 5, 24)), (SS2D(CrossScan=CrossScan_plus_poselimbs), (2, 5, 17, 8)), (Mixer(), (2, 9, 8))],
)
@torch.no_grad()
def test_replicas_compute_with_their_own_parameters(module, shape):
    assert len(lifter.optimize(seeded(module)).swapped) == 1
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    halved = {name: p / 2 for name, p in module.named_parameters()}
    found = replica(module, halved)(x)
    assert not torch.allclose(found, module(x))
    torch.testing.assert_close(found, torch.func.functional_call(module, halved, (x,)))
