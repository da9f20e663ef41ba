"""`python -m benchmarks`: the papers' tables, the speed of the models, the speed of the kernels, live streams."""
