"""SegFormer (Xie et al., 2021) by segmentation-models-pytorch: feed-forward, so for E1 only."""

import warnings

import torch
from torch import nn

from diffseg.errors import UserError

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, which its weights were trained on


class SegFormer(nn.Module):
    """A Mix Transformer encoder and an all-MLP decoder. Published as B3: encoder "mit_b3".

    The noisy mask and t are ignored. weights: "imagenet" or "none" (drawn from the seed), see `load_pretrained`.
    """

    def __init__(self, channels=1, image_channels=3, out_channels=1, encoder="mit_b3", weights="imagenet"):
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # about torchvision's own use of torch
            from segmentation_models_pytorch import Segformer  # seconds of imports

        self.encoder_name, self.weights, self.image_channels = encoder, weights, image_channels
        with torch.device("cpu"):  # it computes with values that the meta device does not have
            net = Segformer(encoder, encoder_weights=None, in_channels=image_channels, classes=out_channels)
        self.net = net.to(torch.get_default_device())
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None] * 2 - 1, persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION)[:, None, None] * 2, persistent=False)

    def load_pretrained(self) -> None:
        """Give a fresh network's encoder the ImageNet weights, if it is to have them. Raises UserError without a network."""
        if self.weights == "none":
            return
        from segmentation_models_pytorch.encoders import get_encoder

        try:
            encoder = get_encoder(self.encoder_name, in_channels=self.image_channels, weights=self.weights)
        except Exception as error:  # of several libraries
            raise UserError(
                f"the {self.weights} weights of {self.encoder_name} cannot be downloaded ({type(error).__name__}): "
                "connect to the internet once, or start from random weights with network.weights=none"
            ) from error
        self.net.encoder.load_state_dict(encoder.state_dict())

    def forward(self, x_t: torch.Tensor, t: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Logits [B, out_channels, H, W] of image [B, image_channels, H, W] in [−1, 1]."""
        if self.weights == "imagenet" and self.image_channels == 3:
            image = (image - self.mean) / self.deviation
        return self.net(image)
