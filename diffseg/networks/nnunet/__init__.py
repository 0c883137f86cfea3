"""nnU-Net v2 (Isensee et al., 2021)."""
