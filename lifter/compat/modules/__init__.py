"""A folder of top-level modules under the names of other projects; see `lifter.compat`."""
