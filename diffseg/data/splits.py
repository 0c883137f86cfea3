"""Decoded images and masks as tensors, gathered into batches on the device where they are used."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from functools import cached_property

import numpy as np
import torch

from diffseg.data.arrays import PixelFormat
from diffseg.data.opening import digest
from diffseg.data.quantisation import Quantisation
from diffseg.data.records import Record
from diffseg.errors import DataError

DEVICE_SHARE = 0.4  # of a device's free memory that a split may take; larger ones stay on the host
OUTLIERS = 0.005  # share of the 16-bit training pixels at either end that is clipped


@dataclass(frozen=True)
class PackedImages:
    """Images of any sizes in one tensor, one after the other, each [C, H, W]."""

    values: torch.Tensor  # [Σ C·H·W]
    channels: int
    sizes: torch.Tensor  # int64 [N, 2], on the device of the values
    starts: torch.Tensor  # int64 [N]: where each begins, likewise
    uniform: tuple[int, int] | None  # the size of all, if they have one

    @classmethod
    def pack(cls, images: Sequence[torch.Tensor]) -> "PackedImages":
        """Images [C, H, W], one after the other."""
        sizes = torch.tensor([image.shape[1:] for image in images], device=images[0].device)
        return cls.from_flat(torch.cat([image.flatten() for image in images]), len(images[0]), sizes)

    @classmethod
    def from_flat(cls, values: torch.Tensor, channels: int, sizes: torch.Tensor) -> "PackedImages":
        lengths = channels * sizes.prod(1)
        uniform = tuple(sizes[0].tolist()) if (sizes == sizes[:1]).all() else None
        return cls(values, channels, sizes, lengths.cumsum(0) - lengths, uniform)

    @property
    def device(self) -> torch.device:
        return self.values.device

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> torch.Tensor:
        """The index-th image, [C, H, W]."""
        (height, width), start = self.sizes[index].tolist(), int(self.starts[index])
        return self.values[start : start + self.channels * height * width].view(self.channels, height, width)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (self[index] for index in range(len(self)))

    def to(self, device: torch.device) -> "PackedImages":
        return replace(self, **{name: getattr(self, name).to(device) for name in ("values", "sizes", "starts")})

    def subset(self, indices: torch.Tensor) -> "PackedImages":
        return replace(self, sizes=self.sizes[indices], starts=self.starts[indices])

    def cut_windows(self, which: torch.Tensor, corners: torch.Tensor, size: int) -> torch.Tensor:
        """[B, C, size, size] of images which [B] at top-left corners [B, 2]."""
        if self.uniform == (size, size):
            length = self.channels * size * size
            return self.values.view(-1, self.channels, size, size)[self.starts[which] // length]
        heights, widths = self.sizes[which].unbind(1)
        span = torch.arange(size, device=which.device)
        rows, columns = (corners[:, side, None] + span for side in (0, 1))
        pixel = rows[:, :, None] * widths[:, None, None] + columns[:, None, :]
        channel = torch.arange(self.channels, device=which.device) * (heights * widths)[:, None]
        return self.values[(self.starts[which, None] + channel)[:, :, None, None] + pixel[:, None]]


@dataclass(frozen=True)
class Scaling:
    """How pixel values become the network's numbers, per channel of the training images."""

    low: tuple[float, ...]  # becomes −1
    high: tuple[float, ...]  # becomes 1
    mean: tuple[float, ...]  # of the numbers so scaled
    sd: tuple[float, ...]
    bits: int = 8  # of the pixels
    volumes: tuple[float, float, int] | None = None  # offset, gain and bits of the map from volumes' numbers to pixels

    @classmethod
    def from_histogram(cls, histogram: np.ndarray, quantisation: Quantisation | None = None) -> "Scaling":
        """From the counts [C, levels] of the training images: 8 bits keep their range, 16 bits lose their outliers."""
        levels = np.arange(histogram.shape[1])
        low, high = np.zeros(len(histogram)), np.full(len(histogram), 255.0)
        if len(levels) > 256:
            shares = histogram.cumsum(1) / histogram.sum(1, keepdims=True)
            low = (shares <= OUTLIERS).sum(1).astype(float)
            high = np.maximum((shares < 1 - OUTLIERS).sum(1), low + 1)
        scaled = (2 * (levels - low[:, None]) / (high - low)[:, None] - 1).clip(-1, 1)
        share = histogram / histogram.sum(1, keepdims=True)
        mean = (share * scaled).sum(1)
        sd = np.sqrt((share * (scaled - mean[:, None]) ** 2).sum(1))
        numbers = (tuple(x.tolist()) for x in (low, high, mean, np.maximum(sd, 1e-3)))
        return cls(*numbers, 16 if len(levels) > 256 else 8, quantisation and astuple(quantisation))

    @classmethod
    def full_range(cls, channels: int, bits: int) -> "Scaling":
        """With data.normalise=case, where every image or volume has its own: the whole range of the pixels."""
        top = 2.0**bits - 1
        return cls((0.0,) * channels, (top,) * channels, (0.0,) * channels, (1.0,) * channels, bits)

    @property
    def pixel_format(self) -> PixelFormat:
        """What new images must know to become pixels as the training images did."""
        return PixelFormat(self.bits, self.volumes and Quantisation(*self.volumes))


@dataclass(frozen=True)
class Split:
    """Images and masks of one split, decoded."""

    names: tuple[str, ...]
    groups: tuple[str | None, ...]  # the patient or volume of each image; None where it is not known
    images: PackedImages  # uint8 or uint16 [C, H, W] each
    masks: PackedImages  # uint8 [R, H, W] each, 0 or 1, one a rater
    originals: tuple[tuple[int, int], ...]  # height and width of each image in its file
    objects: tuple[int, ...]  # that are annotated, of each image
    scaling: Scaling
    standard: bool  # whether images are given mean 0 and deviation 1 of the training images in the end
    channels: int  # that the network takes: gray images (C = 1) are repeated
    device: torch.device  # where batches go, and the pixels if they fit
    case_statistics: torch.Tensor | None = (
        None  # float32 [N, 2, C]: mean and deviation of each case, to normalise by, in [−1, 1]
    )
    records: tuple[Record, ...] | None = None  # where the images came from; None for what is not as it is in files
    digests: Mapping[str, str] = field(
        default_factory=dict
    )  # of the content of these files, by path, when they were decoded

    @cached_property
    def sizes(self) -> torch.Tensor:
        """int64 [N, 2]: height and width of each image, on the device."""
        return self.images.sizes.to(self.device)

    def to(self, device: torch.device | str) -> "Split":
        """For batches on the device. The pixels go there as well unless they would take too much of its memory."""
        device = torch.device(device)
        cases = None if self.case_statistics is None else self.case_statistics.to(device)
        nbytes = sum(pixels.values.nbytes for pixels in (self.images, self.masks))
        if device.type == "cuda" and nbytes > DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]:
            return replace(self, device=device, case_statistics=cases)
        return replace(
            self, images=self.images.to(device), masks=self.masks.to(device), device=device, case_statistics=cases
        )

    def record(self, index: int) -> Record:
        """Where the index-th image came from. Raises DataError if its files have changed since it was decoded."""
        record = self.records[index]
        for path in record.files:
            if digest(path) != self.digests[str(path)]:
                raise DataError(
                    f"{path} has changed since image {record.name} was decoded: put it back as it was, or run the trial anew"
                )
        return record

    def subset(self, indices: torch.Tensor) -> "Split":
        """The images that indices [K] number, without a copy of their pixels."""
        own, chosen = indices.to(self.images.device), indices.tolist()
        pick = lambda values: tuple(values[index] for index in chosen)  # noqa: E731
        return replace(
            self,
            names=pick(self.names),
            groups=pick(self.groups),
            images=self.images.subset(own),
            masks=self.masks.subset(own),
            objects=pick(self.objects),
            case_statistics=None
            if self.case_statistics is None
            else self.case_statistics[indices.to(self.case_statistics.device)],
            originals=pick(self.originals),
            records=self.records and pick(self.records),
        )

    def cut_windows(self, which: torch.Tensor, corners: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Square windows of images and masks, on the device: uint8 or uint16 [B, C, size, size], uint8 [B, R, size, size]."""
        place = self.images.device
        found = (pixels.cut_windows(which.to(place), corners.to(place), size) for pixels in (self.images, self.masks))
        return tuple(pixels.to(self.device) for pixels in found)

    def crop(self, corners: torch.Tensor, size: int) -> "Split":
        """The same with one window of each image in its place."""
        which = torch.arange(len(self.names), device=corners.device)
        images, masks = self.cut_windows(which, corners, size)
        sizes = torch.full_like(self.sizes, size)
        return replace(
            self,
            images=PackedImages.from_flat(images.reshape(-1), self.images.channels, sizes),
            masks=PackedImages.from_flat(masks.reshape(-1), self.masks.channels, sizes),
            records=None,
        )

    def scale(self, images: torch.Tensor) -> torch.Tensor:
        """Pixels [B, C, H, W] as float32 in [−1, 1], with as many channels as the network takes."""
        low, high, _, _ = self._levels
        numbers = images.float() / ((high - low) / 2) - (high + low) / (high - low)
        if images.dtype != torch.uint8:
            numbers = numbers.clamp(-1, 1)
        return numbers.expand(-1, self.channels, -1, -1) if images.shape[1] == 1 else numbers

    def normalise(self, images: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        """Scaled images [B, C, H, W], parts of the images that which [B] numbers, as the network takes them.

        They stay as they are, or get mean 0 and deviation 1 a channel, of all training images or of their own case.
        """
        if self.case_statistics is not None:
            mean, sd = self.case_statistics[which.to(self.case_statistics.device)][..., None, None].unbind(1)
            return (images - mean) / sd
        if not self.standard:
            return images
        _, _, mean, sd = self._levels
        return (images - mean) / sd

    def prepare_inputs(self, images: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        """Pixels [B, C, H, W], parts of the images that which [B] numbers, as the network takes them."""
        return self.normalise(self.scale(images), which)

    def display_image(self, index: int) -> torch.Tensor:
        """The index-th image as people see it, float32 [C, H, W] from 0 to 255.

        With data.normalise=case, 16 bits are shown within three deviations of the case's mean.
        """
        image = self.scale(self.images[index].to(self.device)[None])
        if self.case_statistics is not None and self.images.values.dtype != torch.uint8:
            image = (self.normalise(image, torch.tensor([index])) / 3).clamp(-1, 1)
        return (image[0] + 1) * 127.5

    @cached_property
    def _levels(self) -> torch.Tensor:
        """float32 [4, C, 1, 1]: the scaling's low, high, mean and sd, on the device."""
        scaling = self.scaling
        levels = [scaling.low, scaling.high, scaling.mean, scaling.sd]
        return torch.tensor(levels, device=self.device)[:, :, None, None]
