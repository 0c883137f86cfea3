"""EnsemDiff (Wolleb et al., 2022): the guided-diffusion U-Net on the image and the noisy mask, concatenated."""

import torch
import torch.nn.functional as F
from torch import nn

from diffseg.networks.blocks import (
    Attention,
    Downsample,
    ResBlock,
    Stage,
    Upsample,
    norm,
    timestep_embedding,
    zero_init,
)


class EnsemDiff(nn.Module):
    """U-Net with residual blocks, self-attention at chosen depths and additive time conditioning.

    The encoder has `blocks` residual blocks a level and the decoder one more, each of which takes one skip.
    Published: width 128, multipliers (1, 1, 2, 2, 4, 4), attention at downsampling 16, two outputs (ε and the variance).

    In E3 and E4 there is no conditioning branch to remove: the first convolution just has fewer input channels.
    """

    def __init__(
        self,
        channels=1,
        image_channels=3,
        out_channels=2,
        width=128,
        multipliers=(1, 1, 2, 2, 4, 4),
        blocks=2,
        attention=(16,),
        heads=1,
        dropout=0.0,
    ):
        super().__init__()
        self.width = width
        embedded = 4 * width
        self.time = nn.Sequential(nn.Linear(width, embedded), nn.SiLU(), nn.Linear(embedded, embedded))
        self.stem = nn.Conv2d(image_channels + channels, width, 3, padding=1)

        def stage(into: int, out: int, depth: int) -> Stage:
            attends = [Attention(out, heads)] if 2**depth in attention else []
            return Stage(ResBlock(into, out, embedded, dropout), *attends)

        self.encoder, now, skips = nn.ModuleList(), width, [width]
        for depth, multiplier in enumerate(multipliers):
            for _ in range(blocks):
                self.encoder.append(stage(now, multiplier * width, depth))
                skips.append(now := multiplier * width)
            if depth < len(multipliers) - 1:
                self.encoder.append(Stage(Downsample(now)))
                skips.append(now)

        self.middle = Stage(
            ResBlock(now, now, embedded, dropout), Attention(now, heads), ResBlock(now, now, embedded, dropout)
        )

        self.decoder = nn.ModuleList()
        for depth, multiplier in reversed(list(enumerate(multipliers))):
            for _ in range(blocks + 1):
                self.decoder.append(stage(now + skips.pop(), multiplier * width, depth))
                now = multiplier * width
            if depth:
                self.decoder[-1].append(Upsample(now))

        self.norm = norm(now)
        self.head = zero_init(nn.Conv2d(now, out_channels, 3, padding=1))

    def forward(self, x_t: torch.Tensor, t: torch.Tensor, image: torch.Tensor | None = None) -> torch.Tensor:
        """x_t [B, channels, H, W], t [B] in steps (0 … T − 1), image [B, image_channels, H, W] or None."""
        time = self.time(timestep_embedding(t, self.width))
        x = self.stem(x_t if image is None else torch.cat([image, x_t], dim=1))
        skips = [x]
        for stage in self.encoder:
            skips.append(x := stage(x, time))
        x = self.middle(x, time)
        for stage in self.decoder:
            x = stage(torch.cat([x, skips.pop()], dim=1), time)
        return self.head(F.silu(self.norm(x)))

    def published_names(self) -> dict[str, str]:
        """The published state dict's key of each own key."""
        names = {}
        prefixes = {
            "time": "time_embed",
            "stem": "input_blocks.0.0",
            "middle": "middle_block",
            "norm": "out.0",
            "head": "out.2",
        }
        for key in self.state_dict():
            first, *rest = key.split(".")
            if first in ("encoder", "decoder"):
                index = int(rest.pop(0))
                prefix = f"input_blocks.{index + 1}" if first == "encoder" else f"output_blocks.{index}"
            else:
                prefix = prefixes[first]
            if first in ("encoder", "decoder", "middle"):
                part = self.get_submodule(key.rsplit(".", 2)[0])
                rest[1] = part.PUBLISHED[rest[1]]
            names[key] = ".".join([prefix, *rest])
        return names
