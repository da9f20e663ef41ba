"""The name of the compiled library's file. setup.py runs this file too, where lifter cannot be imported yet."""

import sys

LIBRARY = f"liblifter_ops{'.dylib' if sys.platform == 'darwin' else '.so'}"
