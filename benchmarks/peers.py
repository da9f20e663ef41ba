"""Code of others that the benchmarks compare with, fetched and built beside the repository.

    python -m benchmarks.peers fetch    where there is a network: their sources, at fixed commits
    python -m benchmarks.peers build    where the GPU is: their CUDA extensions, with the nvcc and the torch found there

All of it lies in $PEERS (default: build/peers, which git ignores): `python` is what is imported, `official` the repositories.
Of a peer that is not there, or cannot be built, the benchmarks say so and go on.
"""

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from . import PEERS

# Repository -> commit, and what of it is fetched. Of mamba-ssm not its __init__.py, which imports all its models and what they
# need.
SOURCES = {
    "state-spaces/mamba": (
        "e9594ce1c732d97440f0332fdc43170a2294dbfa", "csrc/selective_scan", "mamba_ssm/ops/selective_scan_interface.py",
        "mamba_ssm/ops/triton/layer_norm.py", "mamba_ssm/ops/triton/selective_state_update.py",
        "mamba_ssm/ops/triton/softplus.py", "mamba_ssm/utils/torch.py", "mamba_ssm/utils/determinism.py", "tests/ops",
    ),
    "Dao-AILab/causal-conv1d": ("0d2252d161f25f7907bbd05985c08ab98d255874", "csrc", "causal_conv1d", "tests"),
    "MzeroMiko/VMamba": ("2ed52ead062a51a64521ed3871d52914bf532876", "kernels/selective_scan/csrc"),
    "fla-org/flash-linear-attention": ("bc3b101dcb713ddc5bd8924b66754eb68b5ccf89", "fla"),
    "arogozhnikov/einops": ("ad2c8d67d08cbebb45e1aff2be21dc88635fc695", "einops"),  # the official codes call it in each layer
    "JinluZhang1126/MixSTE": ("72a36be891a74892dd1a8611159a395ed33a7a01", "common"),
    "Kelly510/PoseRetNet": ("f818b826d4ef74fbcbd97ffaddb04606d242994d", "common"),
    "Walter0807/MotionBERT": ("dccfe7b14a7f09aae2e27a16d951cb4c6f6e62f6", "lib"),
    "TaatiTeam/MotionAGFormer": ("4756fd1eb7cc73f0e991f091ff2280e030ab85f3", "model"),
    "AsukaCamellia/TCPFormer": ("4949a680272232c332bb12b40a3feaf900609b05", "model"),
    "JihuaPeng/KTPFormer": ("b961951a2856dfa631b71bb1058ebebb7fc9acee", "common"),
    "zhenhuat/STCFormer": ("74f660147438f762e2c6748246298c818630ab3f", "model"),
    "zhenhuat/FTCM": ("11eb4cdbe3e48e3b67812fbc2d1196cfb77334d6", "model"),
    "HuCui2022/HGMamba": ("ee219c375d7a91136ca1b89379a68eadf8cd95d3", "model"),
    "facebookresearch/VideoPose3D": ("1afb1ca0f1237776518469876342fc8669d3f6a9", "common"),
    "zczcwh/PoseFormer": ("a908b29adca354b2e0acd36606229ca19b6a5e3c", "common"),
    "QitaoZhao/PoseFormerV2": ("008036a66048e2dcb6fcf8d5b05a705ad1d2f392", "common"),
    "paTRICK-swk/P-STMO": ("aea43d0131e39d8a963598d88331f3f28055afee", "model"),
    "Vegetebird/StridedTransformer-Pose3D": ("e5e62479360687a6cb42b10dc08427a6e8feb43f", "model"),
    "Vegetebird/MHFormer": ("eba3cc3db71cae0ff8137e8b260dff348e7457b4", "model"),
    "bruceyo/GLA-GCN": ("fd72990cb0983a753af6c1f9759ee29765a5409b", "common"),
    "hyer/HDFormer": ("76c8f6772cefcd668e3520f24a0b7acef65ed283", "models", "base"),
    "PKU-ICST-MIPL/FinePOSE_CVPR2024": ("29e92d721fcd6e9a3f2121b9d0829d70e151d2af", "common"),
    "cure-lab/DeciWatch": ("5afe2d67005441e2785a8d374d31a91f046a0da6", "lib/models"),
    "cure-lab/SmoothNet": ("c03e93e8a14f55b9aa087dced2751a7a5e2d50b0", "lib/models"),
    "NationalGAILab/HoT": ("873b5bda0d38cc30ca808c519c87d2e1f22a3292", "model"),
    "paTRICK-swk/D3DP": ("afcdd05df676452fa42cd3cf62ba9c7174c1f78d", "common"),
    "nankingjing/PoseMamba": ("2ec373725759437a3f73d1adb833a63adc3e49a2", "lib"),
    "ireneesun/MixSynthFormer": ("e81756f2000729cff6e8debd836a9861c09c074a", "lib/models"),
    "akadjsam/sasmamba": (
        "3a762d804bd584ea87ff6ea3526724e114f88f63", "model/__init__.py", "model/SasMamba.py", "model/modules/*.py",
    ),
}
PACKAGES = {
    "state-spaces/mamba": "mamba_ssm",
    "Dao-AILab/causal-conv1d": "causal_conv1d",
    "fla-org/flash-linear-attention": "fla",
    "arogozhnikov/einops": "einops",
}
# Module -> where its sources lie, and what of these is compiled.
EXTENSIONS = {
    "selective_scan_cuda": ("mamba/csrc/selective_scan", "."),
    "causal_conv1d_cuda": ("causal-conv1d/csrc", "."),
    "selective_scan_cuda_oflex": ("VMamba/kernels/selective_scan/csrc/selective_scan", "cusoflex"),
    "selective_scan_cuda_core": ("VMamba/kernels/selective_scan/csrc/selective_scan", "cus"),
}
FLAGS = [
    "-O3", "-std=c++17", "-U__CUDA_NO_HALF_OPERATORS__", "-U__CUDA_NO_HALF_CONVERSIONS__", "-U__CUDA_NO_BFLOAT16_OPERATORS__",
    "-U__CUDA_NO_BFLOAT16_CONVERSIONS__", "-U__CUDA_NO_BFLOAT162_OPERATORS__", "-U__CUDA_NO_BFLOAT162_CONVERSIONS__",
    "--expt-relaxed-constexpr", "--expt-extended-lambda", "--use_fast_math",
]  # fmt: skip


def fetch() -> int:
    failed = []
    for repository, (commit, *paths) in SOURCES.items():
        into = PEERS / "official" / repository.split("/")[1]
        shutil.rmtree(into, ignore_errors=True)
        into.mkdir(parents=True)
        git = ("git", "-c", "gc.auto=0", "-C", str(into))
        try:
            subprocess.run([*git, "init", "-q"], check=True)
            subprocess.run([*git, "remote", "add", "origin", f"https://github.com/{repository}"], check=True)
            subprocess.run([*git, "fetch", "-q", "--depth", "1", "--filter", "blob:none", "origin", commit], check=True)
            subprocess.run([*git, "checkout", "-q", "FETCH_HEAD", "--", *paths], check=True)
        except subprocess.CalledProcessError as failure:
            failed.append(f"{repository}: {failure}")
            shutil.rmtree(into)
            continue
        shutil.rmtree(into / ".git")
        if package := PACKAGES.get(repository):
            shutil.copytree(into / package, PEERS / "python" / package, dirs_exist_ok=True)
    size = sum(path.stat().st_size for path in PEERS.rglob("*") if path.is_file())
    print(f"{len(SOURCES) - len(failed)} of {len(SOURCES)} repositories in {PEERS}, {size / 2**20:.0f} MiB")
    print(*failed, sep="\n", end="\n" if failed else "")
    return bool(failed)


def cuda_home() -> str | None:
    """Ask the nvcc on the PATH for CUDA's folder: what is on the PATH may be a script beside nothing else."""
    if shutil.which("nvcc") is None:
        return None
    said = subprocess.run(["nvcc", "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True).stderr
    top = re.search(r"^#\$ TOP=(.+)$", said, re.M)
    return os.path.normpath(top[1]) if top else None


def build() -> int:
    if home := os.environ.get("CUDA_HOME") or cuda_home():
        os.environ["CUDA_HOME"] = home  # read when cpp_extension is imported
    import torch
    from torch.utils import cpp_extension

    if torch.version.cuda is None or cpp_extension.CUDA_HOME is None:
        print("CUDA extensions not built: this needs nvcc and a torch with CUDA, which the machine with the GPU has")
        return 0
    # For this GPU alone, else the one that the round is meant for.
    capability = torch.cuda.get_device_capability() if torch.cuda.is_available() else (9, 0)
    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", ".".join(map(str, capability)))
    with ThreadPoolExecutor() as pool:  # of subprocesses: ninja and nvcc
        results = dict(zip(EXTENSIONS, pool.map(_built, EXTENSIONS)))
    for name, failure in results.items():
        print(f"{name}: {failure or 'built'}")
    return any(results.values())


def _built(name) -> str:
    """Why it could not be built; "" if it was."""
    from torch.utils import cpp_extension

    folder, part = PEERS / "official" / EXTENSIONS[name][0], EXTENSIONS[name][1]
    sources = [str(path) for suffix in ("cpp", "cu") for path in sorted((folder / part).glob(f"*.{suffix}"))]
    if not sources:
        return f"no sources in {folder}: run `python -m benchmarks.peers fetch` where there is a network"
    work = PEERS / "work" / name
    work.mkdir(parents=True, exist_ok=True)
    (PEERS / "python").mkdir(exist_ok=True)
    try:
        cpp_extension.load(
            name, sources, extra_cflags=["-O3", "-std=c++17"], extra_cuda_cflags=FLAGS, build_directory=str(work),
            extra_include_paths=[str(folder)], is_python_module=False,
        )  # fmt: skip
    except Exception as failure:  # of the compiler
        lines = re.findall(r"^.*\berror(?:: | +:).*$", str(failure), re.M)
        return (lines or [f"{type(failure).__name__}: {failure}"])[0]
    shutil.copy(work / f"{name}.so", PEERS / "python")
    return ""


if __name__ == "__main__":
    if sys.argv[1:] not in (["fetch"], ["build"]):
        sys.exit(__doc__)
    sys.exit(fetch() if sys.argv[1] == "fetch" else build())
