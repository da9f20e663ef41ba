"""Training, on Lightning Fabric: recipes, clips of sequences, the loop, checkpoints. `lifter train` is its command line."""

from .data import Clips, FilmedClips, split, watched
from .loop import train
from .recipe import Recipe, find_recipe

__all__ = ["Clips", "FilmedClips", "Recipe", "find_recipe", "split", "train", "watched"]
