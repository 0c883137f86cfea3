"""Stateless randomness: the seed of every draw follows from the draw's purpose.

Checkpoints therefore need no generator state, and a run that was killed and resumed makes the same draws as one that was not.
"""

import hashlib

import torch


def seed_of(*purpose: int | str) -> int:
    """Return a seed of 63 bits for a purpose, named by integers and words such as (seed, "noise", step)."""
    name = hashlib.blake2b(repr(purpose).encode(), digest_size=8).digest()
    return int.from_bytes(name, "little") >> 1


def generator(device: torch.device | str, *purpose: int | str) -> torch.Generator:
    """Return a generator on the device, seeded by the purpose."""
    return torch.Generator(device).manual_seed(seed_of(*purpose))
