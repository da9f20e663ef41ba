"""Check that lifter works as installed from a wheel. Run it where the sources are not: cd / && python .../check_install.py"""

import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import lifter
from lifter import _extras, _library
from lifter.data import open_data, save
from lifter.data.synthetic import open_gait

assert version("pose-lifter") == lifter.__version__
assert _library.loaded, _library.reason
assert _extras.install_command("render") == 'pip install "pose-lifter[render]"'
assert Path(lifter.__file__).with_name("py.typed").is_file()

with tempfile.TemporaryDirectory() as folder:
    keypoints, poses = Path(folder, "gait.npz"), Path(folder, "poses.npz")
    save(keypoints, open_gait(1, 81))
    for arguments in (["info"], ["lift", keypoints, "-o", poses]):
        subprocess.run([sys.executable, "-m", "lifter", *arguments], check=True, cwd=folder)
    (sequence,) = open_data(poses)
    assert sequence.poses.shape == (81, 17, 3)
print("the install works")
