"""A toy network: the worked example of how to add one (diffseg/README.md)."""
