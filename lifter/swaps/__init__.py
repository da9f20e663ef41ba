"""What `lifter.optimize` knows: a function per kind of module.

Each takes a module and returns a `Swap`, None if it is not of its kind, or, where it is nearly, the reason to leave it.
"""

from .attention import self_attention
from .mixers import mixer
from .scans import cross_scan

KINDS = (self_attention, cross_scan, mixer)
