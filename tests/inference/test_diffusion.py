"""The schedule, the sampler and the aggregation of lifter.diffusion."""

import math

import numpy as np
import pytest
import torch

from lifter import diffusion, kernels
from lifter.models import D3DP
from lifter.skeleton import H36M
from lifter.verify import verify

CAMERA = torch.tensor([2.29, 2.287, 0.0251, 0.0289, -0.2071, 0.2478, -0.0031, -0.0009, -0.0014])


def denoiser(**kwargs):
    torch.manual_seed(0)
    return D3DP(**{"num_frames": 4, "dim": 16, "depth": 1, "num_heads": 2} | kwargs).eval()


def keypoints(batch=2):
    torch.manual_seed(1)
    return torch.randn(batch, 4, 17, 2) / 2


def noise(steps=3, batch=2, hypotheses=3):
    torch.manual_seed(2)
    return torch.randn(steps, batch, hypotheses, 4, 17, 3)


def on_reference(*args, **kwargs):
    with kernels.backend("reference"):
        return diffusion.sample(*args, **kwargs)


class Oracle(torch.nn.Module):
    """A denoiser that knows the answer, and writes down what it is asked."""

    timesteps, scale = 1000, 1.0

    def __init__(self, answer):
        super().__init__()
        self.answer, self.asked, self.embedded = answer, [], 0
        self.eval()

    def embed(self, keypoints):
        self.embedded += 1
        return keypoints

    def denoise(self, embedded, poses, time):
        assert len(embedded) == len(poses)
        self.asked.append((poses, time.item()))
        return torch.cat((self.answer, diffusion.mirror(self.answer)))[: len(poses), None].expand_as(poses)


# ---- schedule ------------------------------------------------------------------------------------------------------------


def test_schedule():
    """The product of 1 - beta is the squared cosine where beta is not clipped; only the last one is clipped."""
    betas, alphas = diffusion.cosine_schedule()
    assert betas.shape == alphas.shape == (1000,) and betas.dtype == alphas.dtype == torch.float64
    squared = [math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(1001)]
    expected = torch.tensor(squared[1:], dtype=torch.float64) / squared[0]
    torch.testing.assert_close(alphas[:-1], expected[:-1], rtol=1e-9, atol=0)
    assert betas[-1] == 0.999 and (betas[:-1] < 0.999).all() and (betas.diff() > 0).all()
    assert diffusion.cosine_schedule(10)[0].shape == (10,)


def test_diffuse():
    poses, noise = torch.randn(3, 4, 17, 3) / 4, torch.randn(3, 4, 17, 3)
    time, signal = torch.tensor([0, 500, 999]), diffusion.cosine_schedule()[1]
    noisy = diffusion.diffuse(poses, time, noise, scale=2.0)
    for b in range(3):
        left = signal[time[b]].item()
        expected = ((2 * poses[b] * left**0.5 + noise[b] * (1 - left) ** 0.5) / 2).clamp(-1.1, 1.1)
        torch.testing.assert_close(noisy[b], expected)
    with pytest.raises(ValueError, match=r"time and noise have shapes \(2,\) and \(3, 4, 17, 3\), expected \(3,\) and"):
        diffusion.diffuse(poses, time[:2], noise)
    early = diffusion.diffuse(torch.zeros(1, 4, 17, 3).bfloat16(), time[:1], torch.ones(1, 4, 17, 3).bfloat16())
    assert early.float().mean().item() == pytest.approx((1 - signal[0].item()) ** 0.5, rel=0.01)
    with pytest.raises(TypeError, match="dtypes torch.int64 and torch.int64, expected a floating-point one and int64"):
        diffusion.diffuse(poses.long(), time, noise)
    with pytest.raises(ValueError, match="time goes from -1 to 998, expected 0 to timesteps - 1 = 999"):
        diffusion.diffuse(poses, time - 1, noise)


# ---- sampler -------------------------------------------------------------------------------------------------------------


def test_golden(shared, backend):
    if backend == "triton":
        pytest.skip("not on Triton, whose interpreter takes minutes: the goldens of the denoiser stand for it")
    (result,) = verify(shared / "golden" / "d3dp_sampler.npz", backend)
    assert result.passed, result


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_golden_dtypes(shared, dtype):
    for name in ("d3dp_sampler", "d3dp_jpma"):
        for result in verify(shared / "golden" / f"{name}.npz", "reference", dtype):
            assert result.passed, result


@pytest.mark.parametrize("key", ["input/1", "input/2", "output/0", "param/alphas_cumprod"])
def test_wrong_golden_fails(shared, tmp_path, key):
    arrays = dict(np.load(shared / "golden" / "d3dp_sampler.npz"))
    arrays[key] = np.roll(arrays[key], 1, 0 if arrays[key].shape[0] > 1 else 1)
    np.savez(tmp_path / "wrong.npz", **arrays)
    (result,) = verify(tmp_path / "wrong.npz", "reference")
    assert not result.passed and not result.message, result


def test_shapes_and_steps():
    model = denoiser()
    every = on_reference(model, keypoints(), 3, 3, noise=noise(), every_step=True)
    assert every.shape == (2, 3, 3, 4, 17, 3) and every.abs().max() <= 1.1
    assert torch.equal(on_reference(model, keypoints(), 3, 3, noise=noise()), every[:, -1])
    assert on_reference(model, keypoints()[:, :2], 1, 1).shape == (2, 1, 2, 17, 3)
    assert on_reference(model, keypoints(), 2, 1, flip=None).shape == (2, 2, 4, 17, 3)


def test_one_call_per_step():
    """The times are those of the official code; hypotheses and mirror images go in one call, the keypoints once."""
    oracle = Oracle(torch.randn(2, 4, 17, 3).clamp(-1, 1))
    poses = diffusion.sample(oracle, keypoints(), 3, 4, noise=noise(4))
    assert [time for _, time in oracle.asked] == [999, 749, 499, 249] and oracle.embedded == 1
    assert all(asked.shape == (4, 3, 4, 17, 3) for asked, _ in oracle.asked)
    torch.testing.assert_close(poses, oracle.answer[:, None].expand_as(poses))


def test_noise_of_a_known_answer():
    """With the true answer the noisy poses are those of the forward diffusion: sqrt(a) x0 + sqrt(1 - a) noise, for some
    standard noise, at every step."""
    oracle = Oracle(torch.zeros(40, 4, 17, 3))
    torch.manual_seed(3)
    diffusion.sample(oracle, keypoints(40), 2, 10, flip=None, noise=torch.randn(10, 40, 2, 4, 17, 3))
    alphas = diffusion.cosine_schedule()[1]
    for asked, time in oracle.asked:
        deviation = (1 - alphas[time]).sqrt().item()
        expected = (torch.randn(asked.shape) * deviation).clamp(-1.1, 1.1).std()
        assert asked.std() == pytest.approx(expected.item(), rel=0.03)


def test_batched_hypotheses_are_the_same():
    model = denoiser()
    expected = on_reference(model, keypoints(), 3, 3, noise=noise())
    for size in (1, 2, 5):
        got = on_reference(model, keypoints(), 3, 3, noise=noise(), batch_hypotheses=size)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_hypotheses_and_clips_do_not_mix():
    model = denoiser()
    expected = on_reference(model, keypoints(), 3, 3, noise=noise())
    alone = on_reference(model, keypoints()[1:], 1, 3, noise=noise()[:, 1:, 2:])
    torch.testing.assert_close(alone, expected[1:, 2:], rtol=1e-4, atol=1e-5)


def test_flip_is_an_equivariance():
    """Mirrored keypoints and noise give mirrored poses, which without the flip they do not; a step is the mean of both."""
    model = denoiser()
    model.head[1].weight.data *= 0.1  # nothing is clamped
    mirrored = diffusion.mirror(keypoints()), diffusion.mirror(noise())
    poses = on_reference(model, keypoints(), 3, 3, noise=noise())
    torch.testing.assert_close(
        on_reference(model, mirrored[0], 3, 3, noise=mirrored[1]), diffusion.mirror(poses), rtol=1e-4, atol=1e-5
    )
    one = on_reference(model, keypoints(), 3, 1, noise=noise(1), flip=None)
    other = on_reference(model, mirrored[0], 3, 1, noise=diffusion.mirror(noise(1)), flip=None)
    assert not torch.allclose(diffusion.mirror(one), other, atol=1e-3)
    both = on_reference(model, keypoints(), 3, 1, noise=noise(1))
    torch.testing.assert_close(both, (one + diffusion.mirror(other)) / 2, rtol=1e-4, atol=1e-5)


def test_mirror():
    poses = keypoints()
    assert torch.equal(diffusion.mirror(diffusion.mirror(poses)), poses)
    left, right = H36M.flip_pairs[0]
    assert torch.equal(diffusion.mirror(poses)[..., left, :], poses[..., right, :] * torch.tensor([-1, 1]))


def test_determinism(backend):
    """The same seed gives the same poses, on all backends but for rounding, and other poses than another seed."""
    model = denoiser()
    run = lambda seed: diffusion.sample(model, keypoints(1), 2, 2, generator=torch.Generator().manual_seed(seed))
    poses = run(5)
    assert torch.equal(run(5), poses) and not torch.allclose(run(6), poses, atol=1e-3)
    with kernels.backend("reference"):
        expected = run(5)
    torch.testing.assert_close(poses, expected, rtol=1e-4, atol=1e-5)


def test_drawn_noise_is_the_generators():
    """Recorded, the noise that a generator gives does the same as the generator."""
    generator = torch.Generator().manual_seed(7)
    recorded = torch.stack([torch.randn(2, 3, 4, 17, 3, generator=generator) for _ in range(3)])
    model, clips = denoiser(), keypoints()
    expected = on_reference(model, clips, 3, 3, generator=torch.Generator().manual_seed(7))
    assert torch.equal(on_reference(model, clips, 3, 3, noise=recorded), expected)
    torch.manual_seed(7)
    assert torch.equal(on_reference(model, clips, 3, 3), expected)


def test_scale():
    """Noise and poses are `scale` times what the network sees and says."""
    one = on_reference(denoiser(), keypoints(), 3, 1, noise=noise(1))
    two = on_reference(denoiser(scale=2.0), keypoints(), 3, 1, noise=2 * noise(1))
    torch.testing.assert_close(two, 2 * one)


def test_dtypes():
    model = denoiser()
    exact = on_reference(model.double(), keypoints().double(), 3, 3, noise=noise())
    assert exact.dtype == torch.float64
    rounded = on_reference(model.bfloat16(), keypoints().bfloat16(), 3, 3, noise=noise())
    assert rounded.dtype == torch.bfloat16 and (rounded - exact).abs().max() < 0.1


def test_clips_one_by_one():
    """A run that was interrupted goes on to the same poses; what was finished is there."""
    clips = keypoints(3)
    options = {"hypotheses": 2, "steps": 2}
    with kernels.backend("reference"):
        all_clips = list(diffusion.sample_clips(denoiser(), clips, seed=4, **options))
        run = diffusion.sample_clips(denoiser(), clips, seed=4, **options)
        done = [next(run)]
        done += diffusion.sample_clips(denoiser(), clips[1:], seed=5, **options)
    assert len(all_clips) == 3 and all_clips[0].shape == (2, 4, 17, 3)
    assert torch.equal(torch.stack(done), torch.stack(all_clips))


def test_sampler_errors():
    model = denoiser()
    for name, value, expected in (
        ("hypotheses", 0, "a positive integer"), ("steps", 1001, "1 to timesteps=1000"), ("steps", 2.5, "1 to timesteps"),
        ("batch_hypotheses", 0, "a positive integer"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"{name} is {value}, expected {expected}"):
            diffusion.sample(model, keypoints(), **{name: value})
    with pytest.raises(ValueError, match=r"noise has shape \(3, 2, 3, 4, 17, 3\), expected \(3, 2, 4, 4, 17, 3\)"):
        diffusion.sample(model, keypoints(), 4, 3, noise=noise())
    with pytest.raises(ValueError, match="expected 17 joints as flip=h36m"):
        diffusion.sample(model, keypoints()[:, :, 1:])
    with pytest.raises(ValueError, match="training mode"):
        diffusion.sample(denoiser().train(), keypoints())


# ---- aggregation ---------------------------------------------------------------------------------------------------------


def scene(steps=(), hypotheses=4, dtype=torch.float64):
    """True poses, their root 4 to 6 m away, keypoints without error, and hypotheses that are off by about 5 cm."""
    torch.manual_seed(3)
    target = torch.randn(2, 5, 17, 3, dtype=dtype) * torch.tensor([0.3, 0.5, 0.3])
    target[:, :, 0] = 0
    root = torch.rand(2, 5, 3, dtype=dtype) * torch.tensor([1.0, 0.6, 2.0]) + torch.tensor([-0.5, -0.3, 4.0])
    errors = 0.05 * torch.randn(2, *steps, hypotheses, 5, 17, 3, dtype=dtype)
    poses = target.reshape(2, *[1] * len(steps), 1, 5, 17, 3) + errors
    poses[..., 0, :] = 0
    image = diffusion.project(target + root[:, :, None], CAMERA)
    return poses, target, root, image


def test_golden_aggregation(shared):
    results = verify(shared / "golden" / "d3dp_jpma.npz", "reference")
    assert len(results) == 11
    for result in results:
        assert result.passed, result
    assert next(result for result in results if result.unit == "selected").absolute == 0


def test_wrong_golden_aggregation_fails(shared, tmp_path):
    arrays = dict(np.load(shared / "golden" / "d3dp_jpma.npz"))
    outputs = [key for key in arrays if key.startswith("output/")]
    wrong = {key: np.roll(arrays[key], 1, -1) for key in outputs}
    np.savez(tmp_path / "wrong.npz", **arrays | wrong)
    assert not any(result.passed for result in verify(tmp_path / "wrong.npz", "reference"))
    np.savez(tmp_path / "empty.npz", **{key: value for key, value in arrays.items() if key not in outputs})
    (result,) = verify(tmp_path / "empty.npz", "reference")
    assert "nothing to compare" in result.message


@pytest.mark.parametrize("steps", [(), (3,)], ids=["last step", "every step"])
@pytest.mark.parametrize("known_root", [True, False])
def test_reprojection_selects_the_true_hypothesis(steps, known_root):
    """One hypothesis is right at each joint, another one at each: they are found by their images."""
    poses, target, root, image = scene(steps)
    right = torch.randint(4, (2, *steps, 1, 5, 17))
    mask = torch.arange(4)[:, None, None] == right  # (2, ..., 4, 5, 17)
    poses = torch.where(mask[..., None], target.reshape(2, *[1] * len(steps), 1, 5, 17, 3), poses)
    if not known_root:  # a mean that is right, so that its root is
        poses = torch.cat((poses, 2 * target.reshape(2, *[1] * len(steps), 1, 5, 17, 3) - poses), -4)
    result = diffusion.aggregate_reprojection(poses, image, CAMERA, root if known_root else None)
    assert result.root_source == ("given" if known_root else "least squares")
    torch.testing.assert_close(result.poses, target.reshape(2, *[1] * len(steps), 5, 17, 3).expand_as(result.poses))
    moved = slice(1, None)  # the root joint is the same in all: the first is taken
    assert torch.equal(result.selected[..., moved] % 4, right.squeeze(-3)[..., moved])
    assert (result.selected[..., 0] == 0).all()


def test_reprojection_without_the_root_is_nearly_as_good():
    poses, target, root, image = scene(hypotheses=20)
    error = lambda aggregated: (aggregated - target).norm(dim=-1).mean().item()
    given = diffusion.aggregate_reprojection(poses, image, CAMERA, root)
    found = diffusion.aggregate_reprojection(poses, image, CAMERA)
    assert found.root.shape == given.root.shape == (2, 5, 3) and torch.equal(given.root, root)
    assert error(found.poses) < 1.1 * error(given.poses) < error(poses[:, 0])


@pytest.mark.parametrize("camera", [CAMERA, torch.stack((CAMERA, 1.3 * CAMERA))], ids=["one camera", "camera per clip"])
def test_root_recovery(camera):
    """Exact, also through the lens's distortion, and continuous."""
    _, target, root, _ = scene()
    image = diffusion.project(target + root[:, :, None], camera)
    found = diffusion.recover_root(target, image, camera)
    torch.testing.assert_close(found, root, rtol=1e-6, atol=1e-6)
    noisy = diffusion.recover_root(target, image + 1e-3 * torch.randn_like(image), camera)
    assert (noisy - root).norm(dim=-1).mean() < 0.05
    single = diffusion.recover_root(target.float(), image.float(), camera)
    torch.testing.assert_close(single, root.float(), rtol=1e-3, atol=1e-3)


def test_root_recovery_of_what_has_no_root():
    """Keypoints that all coincide, as of a missing person, say nothing about the depth; the root is finite."""
    poses, _, _, image = scene()
    nowhere = torch.zeros_like(image)
    result = diffusion.aggregate_reprojection(poses, nowhere, CAMERA)
    assert result.root.isfinite().all() and result.poses.isfinite().all()
    flat = diffusion.aggregate_reprojection(torch.zeros_like(poses), nowhere, CAMERA)
    assert flat.root.isfinite().all() and (flat.selected == 0).all()


def test_projection():
    """Without distortion the pinhole; with it Human3.6M's formula, written out; beyond 45 degrees clamped."""
    point = torch.tensor([[[0.5, -1.0, 4.0]]], dtype=torch.float64)
    pinhole = torch.tensor([2.0, 3.0, 0.1, 0.2, 0, 0, 0, 0, 0])
    expected = torch.tensor([[[0.25 + 0.1, -0.75 + 0.2]]], dtype=torch.float64)
    torch.testing.assert_close(diffusion.project(point, pinhole), expected, rtol=1e-6, atol=0)
    fx, fy, cx, cy, k1, k2, k3, p1, p2 = CAMERA.double().tolist()
    x, y = 0.125, -0.25
    r2 = x * x + y * y
    factor = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3 + p1 * x + p2 * y
    expected = [fx * (x * factor + p1 * r2) + cx, fy * (y * factor + p2 * r2) + cy]
    assert diffusion.project(point, CAMERA)[0, 0].tolist() == pytest.approx(expected)
    beside = torch.tensor([[[9.0, 0.0, 4.0], [4.0, 0.0, 4.0], [1.0, 0.0, 0.0]]])
    assert len(diffusion.project(beside, CAMERA)[0].unique(dim=0)) == 1


def test_mean_and_oracles():
    poses, target, _, _ = scene()
    error = lambda poses: (poses - target).norm(dim=-1)
    each = (poses - target[:, None]).norm(dim=-1)
    assert torch.equal(diffusion.aggregate_mean(poses), poses.mean(1))
    assert torch.equal(error(diffusion.oracle_joint(poses, target)), each.amin(1))
    best = diffusion.oracle_pose(poses, target)
    assert error(best).mean() == each.mean((0, 2, 3)).min()
    assert error(diffusion.oracle_joint(poses, target)).mean() < error(best).mean()
    for aggregate in (diffusion.oracle_pose, diffusion.oracle_joint):  # step by step the same as all steps at once
        steps = torch.stack((poses, poses.flip(1) * 1.1), 1)
        apart = torch.stack([aggregate(steps[:, i], target) for i in range(2)], 1)
        assert torch.equal(aggregate(steps, target), apart)


def test_bfloat16_poses_are_compared_in_float32():
    poses, _, root, image = scene(dtype=torch.float32)
    rounded = poses.bfloat16()
    result = diffusion.aggregate_reprojection(rounded, image, CAMERA, root)
    expected = diffusion.aggregate_reprojection(rounded.float(), image, CAMERA, root)
    assert result.poses.dtype == torch.bfloat16 and torch.equal(result.selected, expected.selected)


def test_aggregation_errors():
    poses, target, root, image = scene()
    with pytest.raises(ValueError, match=r"target has shape \(2, 4, 17, 3\), expected \(2, 5, 17, 3\) as poses"):
        diffusion.oracle_joint(poses, target[:, 1:])
    with pytest.raises(ValueError, match=r"keypoints have shape \(2, 5, 17, 3\), expected \(2, 5, 17, 2\)"):
        diffusion.aggregate_reprojection(poses, target, CAMERA)
    with pytest.raises(ValueError, match=r"root has shape \(2, 5, 1, 3\), expected \(2, 5, 3\)"):
        diffusion.aggregate_reprojection(poses, image, CAMERA, root[:, :, None])
    with pytest.raises(ValueError, match=r"camera has shape \(4,\), expected \(9,\) or \(2, 9\)"):
        diffusion.aggregate_reprojection(poses, image, CAMERA[:4])
    with pytest.raises(ValueError, match=r"poses have shape .*, expected \(B, ..., T, J, 3\)"):
        diffusion.recover_root(poses[..., :2], image, CAMERA)
