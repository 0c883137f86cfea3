"""SegDiff (Amit et al., 2021)."""
