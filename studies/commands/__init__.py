"""The program `diffseg`."""
