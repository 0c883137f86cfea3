"""AmbDiff (Christensen et al., 2025)."""
