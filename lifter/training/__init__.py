"""Training, on Lightning Fabric: recipes, clips of sequences, the loop, checkpoints. `lifter train` is its command line."""

from lifter.recipe import Recipe, find_recipe

from .data import Clips, FilmedClips, open_for_training, split, watched
from .loop import train

__all__ = ["Clips", "FilmedClips", "Recipe", "find_recipe", "open_for_training", "split", "train", "watched"]
