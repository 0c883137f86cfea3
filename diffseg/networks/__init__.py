"""The networks that can be trained, a folder each. `protocol.py` says what a network offers, `registry.py` lists them."""
