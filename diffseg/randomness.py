"""Stateless randomness: every draw comes from a generator seeded by what it is for.

So a checkpoint needs no generator state, and a run that was killed and resumed draws what it would have drawn.
"""

import hashlib

import torch


def seed_of(*purpose: int | str) -> int:
    """A seed of 63 bits for one purpose, named by integers and words such as (seed, "noise", step)."""
    name = hashlib.blake2b(repr(purpose).encode(), digest_size=8).digest()
    return int.from_bytes(name, "little") >> 1


def generator(device: torch.device | str, *purpose: int | str) -> torch.Generator:
    """A generator for one purpose."""
    return torch.Generator(device).manual_seed(seed_of(*purpose))
