"""A data set's fingerprint: the mask error over the noise levels, measured by trials of E3 or estimated without training."""
