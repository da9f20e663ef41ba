"""`python -m benchmarks`: the papers' tables, the speed of the models, the speed of the kernels, live streams."""

import os
import sys
from pathlib import Path

PEERS = Path(os.environ.get("PEERS", "build/peers")).absolute()  # the code of others, see .peers
sys.path.append(str(PEERS / "python"))  # what is installed comes first
