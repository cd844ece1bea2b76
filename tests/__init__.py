"""A package of its own: some distributions install a top-level `tests`, which would be found instead."""
