"""What diffseg is compared with: its own networks in the published form, and MONAI's network, loop and data loading."""

import copy
import types
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from diffseg import data
from diffseg.config import Config
from diffseg.networks.blocks import Attention
from diffseg.training.batches import Batches


def plain(network: nn.Module) -> nn.Module:
    """A copy whose attention is that of guided-diffusion, from which the published networks come."""
    other = copy.deepcopy(network)
    for module in other.modules():
        if isinstance(module, Attention):
            module.forward = types.MethodType(_published_attention, module)
    return other


def _published_attention(self, x: torch.Tensor) -> torch.Tensor:
    """Explicit weights, softmax in float32."""
    b, c, *spatial = x.shape
    flat = x.reshape(b, c, -1)
    qkv = self.qkv(self.norm(flat))
    width, length = c // self.heads, flat.shape[-1]
    q, k, v = qkv.reshape(b * self.heads, 3 * width, length).split(width, dim=1)
    scale = width**-0.25
    weight = torch.einsum("bct,bcs->bts", q * scale, k * scale)
    weight = torch.softmax(weight.float(), dim=-1).type(weight.dtype)
    h = self.out(torch.einsum("bts,bcs->bct", weight, v).reshape(b, -1, length))
    return (flat + h).reshape(b, c, *spatial)


class Anew(nn.Module):
    """A network that computes everything at every step."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x_t, t, image, features=(), **more):
        return self.network(x_t, t, image, **more)


def monai_network(config: Config) -> nn.Module:
    """MONAI's diffusion U-Net of the same channels, levels and attention."""
    from monai.networks.nets import DiffusionModelUNet

    network = config.network
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


def monai_step(config: Config, split: data.Split, device: torch.device) -> Callable[[], None]:
    """A training step as MONAI's tutorials write it: its DataLoader, inferer (image and noisy mask concatenated), Adam."""
    from monai.inferers import DiffusionInferer
    from monai.networks.schedulers import DDPMScheduler

    net = monai_network(config).to(device)
    inferer = DiffusionInferer(DDPMScheduler(num_train_timesteps=config.diffusion.steps))
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-6)
    batches = monai_batches(split, config, device)

    def step() -> None:
        images, masks = batches()
        noise = torch.randn_like(masks)
        t = torch.randint(config.diffusion.steps, (len(masks),), device=device)
        found = inferer(2 * masks - 1, net, noise, t, condition=images, mode="concat")
        optimiser.zero_grad(set_to_none=True)
        F.mse_loss(found, noise).backward()
        optimiser.step()

    return step


def monai_evaluation(config: Config, device: torch.device) -> Callable[[], object]:
    net = monai_network(config).to(device).eval()
    x, t, image = inputs(config, device)
    return torch.inference_mode()(lambda: net(torch.cat([x, image], dim=1), t))


def monai_batches(split: data.Split, config: Config, device: torch.device) -> Callable[[], object]:
    """MONAI's DataLoader over the same arrays, scaled, flipped and turned by its own transforms."""
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

    def endless():
        while True:
            yield from loader

    batches = endless()
    return lambda: [part.to(device) for part in next(batches).values()]


def inputs(config: Config, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A noisy mask, its timesteps and its image, of a whole batch."""
    images, masks = Batches(data.load(config.data, None).train.to(device), config)(0)
    return torch.randn_like(masks), torch.arange(len(masks), device=device), images
