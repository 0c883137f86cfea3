"""Implementations that diffseg is compared with.

They are diffseg's own networks in their published form, and MONAI's network, training step and data loading.
"""

import copy
import types
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffseg import data
from diffseg.config import Config
from diffseg.networks.blocks import Attention
from diffseg.networks.group_norm import GroupNorm
from diffseg.networks.unet_settings import UNetSettings
from diffseg.training.batches import Batches

if TYPE_CHECKING:
    from monai.networks.nets import DiffusionModelUNet


def published_form(network: nn.Module) -> nn.Module:
    """Copy a network, with the attention and the normalisation of guided-diffusion, from which the published ones derive."""
    other = copy.deepcopy(network)
    for module in other.modules():
        if isinstance(module, GroupNorm):
            module.forward = types.MethodType(_published_norm, module)  # type: ignore[method-assign]
        if isinstance(module, Attention):
            module.forward = types.MethodType(_published_attention, module)  # type: ignore[method-assign]
    return other


def _published_attention(self: Attention, x: Tensor) -> Tensor:
    """Compute self-attention with explicit weights and the softmax in float32. x: [B, C, ...]."""
    b, c, *spatial = x.shape
    flat = x.reshape(b, c, -1)
    qkv = self.qkv(self.norm(flat))
    width, length = c // self.heads, flat.shape[-1]
    q, k, v = qkv.reshape(b * self.heads, 3 * width, length).split(width, dim=1)
    scale = width**-0.25
    weight = torch.einsum("bct,bcs->bts", q * scale, k * scale)
    weight = torch.softmax(weight.float(), dim=-1).type(weight.dtype)
    h: Tensor = self.out(torch.einsum("bts,bcs->bct", weight, v).reshape(b, -1, length))
    return (flat + h).reshape(b, c, *spatial)


def _published_norm(self: GroupNorm, x: Tensor, silu: bool = False) -> Tensor:
    """Normalise and activate by torch's own operations."""
    found = nn.GroupNorm.forward(self, x)
    return F.silu(found) if silu else found


class WithoutImageCache(nn.Module):
    """A network that recomputes the features of the image at every sampling step."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x_t: Tensor, t: Tensor, image: Tensor | None, features: object = (), **more: object) -> object:
        """Call the network without the features of the image that were computed before."""
        return self.network(x_t, t, image, **more)


def monai_network(config: Config) -> "DiffusionModelUNet":
    """Build MONAI's diffusion U-Net with the same channels, levels and attention."""
    from monai.networks.nets import DiffusionModelUNet

    network = config.network
    assert isinstance(network, UNetSettings)
    channels = [network.width * multiplier for multiplier in network.multipliers]
    return DiffusionModelUNet(
        spatial_dims=2,
        in_channels=1 + config.data.channels,
        out_channels=1,
        num_res_blocks=network.blocks,
        channels=channels,
        attention_levels=[2**depth in network.attention for depth in range(len(channels))],
        norm_num_groups=32,
        num_head_channels=[width // network.heads for width in channels],
    )


def monai_training_step(config: Config, split: data.Split, device: torch.device) -> Callable[[], None]:
    """Return a training step as in MONAI's tutorials: DataLoader, inferer (image and noisy mask concatenated), Adam."""
    from monai.inferers import DiffusionInferer
    from monai.networks.schedulers import DDPMScheduler

    net = monai_network(config).to(device)
    inferer = DiffusionInferer(DDPMScheduler(num_train_timesteps=config.diffusion.steps))
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-6)
    next_batch = monai_batches(split, config, device)

    def step() -> None:
        images, masks = next_batch()
        noise = torch.randn_like(masks)
        t = torch.randint(config.diffusion.steps, (len(masks),), device=device)
        found = inferer(2 * masks - 1, net, noise, t, condition=images, mode="concat")
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(F.mse_loss(found, noise))
        optimiser.step()

    return step


def monai_evaluation(config: Config, device: torch.device) -> Callable[[], object]:
    """Return a call that evaluates MONAI's network on one batch."""
    net = monai_network(config).to(device).eval()
    x, t, image = sample_inputs(config, device)

    def evaluate() -> object:
        with torch.inference_mode():
            return net(torch.cat([x, image], dim=1), t)

    return evaluate


def monai_batches(split: data.Split, config: Config, device: torch.device) -> Callable[[], list[Tensor]]:
    """Return a call that gives the next batch [images, masks] of MONAI's DataLoader over the same arrays.

    MONAI's own transforms scale, flip and rotate them.
    """
    from monai.data import DataLoader, Dataset
    from monai.transforms import Compose, RandAxisFlipd, RandRotate90d, ScaleIntensityRanged

    keys = ["image", "mask"]
    transform = Compose(
        [
            ScaleIntensityRanged("image", 0, 255, -1, 1),
            RandAxisFlipd(keys, 0.5),
            RandRotate90d(keys, 0.5),
        ]
    )
    rows = [{"image": split.images[k].float(), "mask": split.masks[k].float()} for k in range(len(split.names))]
    loader = DataLoader(Dataset(rows, transform), batch_size=config.training.batch, shuffle=True, num_workers=0)

    def repeat() -> Iterator[dict[str, Tensor]]:
        while True:
            yield from loader

    batches = repeat()
    return lambda: [part.to(device) for part in next(batches).values()]


def sample_inputs(config: Config, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return a random x_t [B, 1, H, W], the timesteps 0 … B − 1 [B], and images [B, C, H, W] of a batch."""
    images, masks = Batches(data.load(config.data, None).train.to(device), config)(0)
    return torch.randn_like(masks), torch.arange(len(masks), device=device), images
