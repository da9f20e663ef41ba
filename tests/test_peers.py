"""Official code of others, unmodified, on a CPU: through `lifter.compat`, and after `lifter.optimize`.

Runs where $LIFTER_PEERS names a folder of clones (PoseMamba, sasmamba, VMamba, mamba, MixSTE, MotionBERT, MotionAGFormer).
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = os.environ.get("LIFTER_PEERS")
CLONES = ("PoseMamba", "sasmamba", "VMamba", "mamba", "MixSTE", "MotionBERT", "MotionAGFormer")
pytestmark = pytest.mark.skipif(not FOLDER, reason="needs clones of other projects: set LIFTER_PEERS to their folder")


@pytest.mark.parametrize("name", CLONES)
def test_official_code(name, shared, tmp_path):
    clone = Path(FOLDER or "", name)
    if not clone.is_dir():
        pytest.skip(f"no {clone}")
    # A process each, because their packages have the same names; away from here, where a folder is called kernels.
    for package in ("lifter", "benchmarks"):
        (tmp_path / package).symlink_to(Path(__file__).parents[1] / package)
    command = [sys.executable, Path(__file__).with_name("peers.py"), name.lower(), clone, shared / "golden"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
