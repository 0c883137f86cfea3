"""EnsemDiff (Wolleb et al., 2022)."""
