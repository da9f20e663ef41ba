"""The name that CMake gives the compiled library. setup.py runs this file too, where lifter cannot be imported yet."""

import sys

LIBRARY = f"liblifter_ops{'.dylib' if sys.platform == 'darwin' else '.so'}"
