"""Numbers that stand in C++ and in Python are the same."""

import importlib
import re
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"
NUMBER = r"([\d.e-]+)f?\b"
CONSTANTS = [
    ("selective_scan", "CHUNK", "cpu/layout.h", rf"kChunk = {NUMBER}"),
    ("_panels", "PANEL", "cpu/weight_panels.h", rf"kPanelColumns = {NUMBER}"),
    ("_panels", "LANES", "cpu/weight_panels.h", rf"kColumnMultiple = {NUMBER}"),
    ("topk_temporal_mask", "BITS", "cpu/layout.h", rf"kWordBits = {NUMBER}"),
    ("retention", "XPOS_BASE", "rotary_tables.cpp", rf"kXposBase = {NUMBER}"),
    ("density_peak_prune", "NOISE", "cpu/density_peak_prune.cpp", rf"density \+= {NUMBER} \* s_\.noise"),
]


@pytest.mark.parametrize("module, name, file, pattern", CONSTANTS, ids=[name for _, name, *_ in CONSTANTS])
def test_constants_agree(module, name, file, pattern):
    (found,) = re.findall(pattern, (CSRC / file).read_text())
    assert float(found) == getattr(importlib.import_module(f"lifter.kernels.{module}"), name)
