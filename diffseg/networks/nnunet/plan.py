"""The network that nnU-Net would plan for a data set, without the data set: for estimates of the cost."""

import torch
from torch import nn

USUAL_IMAGES = 900  # training images assumed where their number is not set, about ISIC16's
REFERENCE = 12 * 85_000_000  # nnU-Net's batch times feature map size that fits into 8 GB


def plan_network(size: int, images: int | None, channels: int = 3, heads: int = 2) -> tuple[nn.Module, int]:
    """Return (network on the meta device, batch) that nnU-Net would plan for `images` square images of `size` px.

    heads: the output channels (`dataset.count_heads`).
    """
    from dynamic_network_architectures.architectures.unet import PlainConvUNet
    from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props

    _, strides, kernels, patch, _ = get_pool_and_conv_props((1, 1), (size, size), 4, 999999)
    stages = len(strides)
    with torch.device("meta"):
        network = PlainConvUNet(
            input_channels=channels,
            n_stages=stages,
            features_per_stage=[min(512, 32 * 2**stage) for stage in range(stages)],
            conv_op=nn.Conv2d,
            kernel_sizes=kernels,
            strides=strides,
            n_conv_per_stage=2,
            num_classes=heads,
            n_conv_per_stage_decoder=2,
            conv_bias=True,
            norm_op=nn.InstanceNorm2d,
            norm_op_kwargs={"eps": 1e-5, "affine": True},
            nonlin=nn.LeakyReLU,
            deep_supervision=False,
        )
    fits = REFERENCE / network.compute_conv_feature_map_size(patch)
    return network, max(2, min(round(fits), round(0.05 * (images or USUAL_IMAGES))))
