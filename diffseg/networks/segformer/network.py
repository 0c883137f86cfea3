"""SegFormer (Xie et al., 2021) by segmentation-models-pytorch: feed-forward, so for E1 only."""

import warnings

import torch
from torch import nn

from diffseg.errors import UserError
from diffseg.networks.protocol import Dimensions, Implementation
from diffseg.networks.segformer.settings import SegFormer

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, which the pretrained weights expect


class SegFormerNetwork(nn.Module):
    """A Mix Transformer encoder and an all-MLP decoder. The noisy mask and t are ignored."""

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, settings: SegFormer, dimensions: Dimensions):
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # about torchvision's own use of torch
            from segmentation_models_pytorch import Segformer  # seconds of imports

        self.settings, self.image_channels = settings, dimensions.image_channels
        with torch.device("cpu"):  # it computes with values that the meta device does not have
            net = Segformer(
                settings.encoder,
                encoder_weights=None,
                in_channels=dimensions.image_channels,
                classes=dimensions.out_channels,
            )
        self.net = net.to(torch.get_default_device())
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None] * 2 - 1, persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION)[:, None, None] * 2, persistent=False)

    def load_pretrained(self) -> None:
        """Load the ImageNet weights of the encoder, if the settings ask for them. Raises UserError if they cannot be had."""
        encoder_name, weights = self.settings.encoder, self.settings.weights
        if weights == "none":
            return
        from segmentation_models_pytorch.encoders import get_encoder

        try:
            encoder = get_encoder(encoder_name, in_channels=self.image_channels, weights=weights)
        except Exception as error:  # several libraries raise their own
            raise UserError(
                f"the {weights} weights of {encoder_name} cannot be downloaded ({type(error).__name__}): "
                "connect to the internet once, or start from random weights with network.weights=none"
            ) from error
        self.net.encoder.load_state_dict(encoder.state_dict())

    def forward(self, x_t: torch.Tensor, t: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Return logits [B, out_channels, H, W] of image [B, image_channels, H, W] in [−1, 1]."""
        if self.settings.weights == "imagenet" and self.image_channels == 3:
            image = (image - self.mean) / self.deviation
        found: torch.Tensor = self.net(image)
        return found


class SegFormerImplementation(Implementation[SegFormer]):
    """SegFormer, trained and used in the common way."""

    def build(self, dimensions: Dimensions) -> SegFormerNetwork:
        """Return the module with fresh weights, not yet pretrained."""
        return SegFormerNetwork(self.settings, dimensions)
