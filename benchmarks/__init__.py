"""`python -m benchmarks`: the papers' tables, the speed of the models, the speed of the kernels, live streams."""

import sys

from .peers import FOLDER

sys.path.append(str(FOLDER / "python"))  # of others, for a GPU: an installed one comes first
