"""MedSegDiff (Wu et al., 2022)."""
