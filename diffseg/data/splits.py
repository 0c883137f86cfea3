"""Decoded images and masks as tensors, and what a network sees of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

import torch

from diffseg.data.opening import digest
from diffseg.data.packing import PackedImages
from diffseg.data.records import Record
from diffseg.data.scaling import Scaling
from diffseg.errors import DataError

T = TypeVar("T")
DEVICE_SHARE = 0.4  # of a device's free memory that a split may take; a larger one stays on the host


@dataclass(frozen=True)
class Split:
    """The decoded images and masks of one split."""

    names: tuple[str, ...]
    groups: tuple[str | None, ...]  # the patient or volume of each image; None if it is unknown
    images: PackedImages  # uint8 or uint16 [C, H, W] each
    masks: PackedImages  # uint8 [R, H, W] each, one a rater: the numbers of labels
    originals: tuple[tuple[int, int], ...]  # height and width of each image in its file
    spacings: tuple[tuple[float, float] | None, ...]  # mm between rows and between columns in the file; None if unknown
    objects: tuple[int, ...]  # number of annotated objects of each image
    scaling: Scaling
    standard: bool  # whether scaled images are normalised by mean and deviation of the training images
    channels: int  # that the network takes; the one channel of gray images is repeated
    device: torch.device  # of batches, and of the pixels if they fit
    case_statistics: torch.Tensor | None = None  # float32 [N, 2, C]: mean and deviation of each case's scaled pixels
    records: tuple[Record, ...] | None = None  # the files of the images; None if the pixels no longer match the files
    digests: Mapping[str, str] = field(default_factory=dict)  # of the files' content when it was decoded, by path
    instances: PackedImages | None = None  # uint16 [1, H, W] each, on the host: the object of each pixel, 0 for none

    @cached_property
    def sizes(self) -> torch.Tensor:
        """int64 [N, 2]: height and width of each image, on the device."""
        return self.images.sizes.to(self.device)

    def to(self, device: torch.device | str) -> "Split":
        """Use the device for batches. The pixels move there too, unless they would take more than DEVICE_SHARE of its memory."""
        device = torch.device(device)
        cases = None if self.case_statistics is None else self.case_statistics.to(device)
        nbytes = sum(pixels.values.nbytes for pixels in (self.images, self.masks))
        if device.type == "cuda" and nbytes > DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]:
            return replace(self, device=device, case_statistics=cases)
        return replace(
            self, images=self.images.to(device), masks=self.masks.to(device), device=device, case_statistics=cases
        )

    def record(self, index: int) -> Record:
        """Return the files of the index-th image. Raises DataError if they have changed since they were decoded.

        The record was stored when the image was decoded: the data set's folder is not listed again.
        """
        if self.records is None:
            raise ValueError("the images of this split are not those of its files")
        record = self.records[index]
        for path in record.files:
            if digest(path) != self.digests[str(path)]:
                raise DataError(
                    f"{path} has changed since image {record.name} was decoded: put it back as it was, or run the trial anew"
                )
        return record

    def subset(self, indices: torch.Tensor) -> "Split":
        """Select the images that indices [K] number, without a copy of their pixels."""
        own, chosen = indices.to(self.images.device), indices.tolist()
        statistics = self.case_statistics
        return replace(
            self,
            names=_pick(self.names, chosen),
            groups=_pick(self.groups, chosen),
            images=self.images.subset(own),
            masks=self.masks.subset(own),
            spacings=_pick(self.spacings, chosen),
            objects=_pick(self.objects, chosen),
            instances=None if self.instances is None else self.instances.subset(indices.to(self.instances.device)),
            case_statistics=None if statistics is None else statistics[indices.to(statistics.device)],
            originals=_pick(self.originals, chosen),
            records=self.records and _pick(self.records, chosen),
        )

    def cut_windows(self, which: torch.Tensor, corners: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Cut square windows from the images which [B], at top-left corners [B, 2]; return them on the split's device.

        Images are uint8 or uint16 [B, C, size, size], masks uint8 [B, R, size, size].
        """
        place = self.images.device
        which, corners = which.to(place), corners.to(place)
        images, masks = (pixels.cut_windows(which, corners, size) for pixels in (self.images, self.masks))
        return images.to(self.device), masks.to(self.device)

    def crop(self, corners: torch.Tensor, size: int) -> "Split":
        """Replace every image by its window at corners [N, 2]. The result has no records: it no longer matches the files."""
        which = torch.arange(len(self.names), device=corners.device)
        images, masks = self.cut_windows(which, corners, size)
        sizes, objects = torch.full_like(self.sizes, size), self.instances
        if objects is not None:
            cut = objects.cut_windows(which.to(objects.device), corners.to(objects.device), size)
            objects = PackedImages.from_flat(cut.reshape(-1), 1, sizes.to(objects.device))
        return replace(
            self,
            images=PackedImages.from_flat(images.reshape(-1), self.images.channels, sizes),
            masks=PackedImages.from_flat(masks.reshape(-1), self.masks.channels, sizes),
            instances=objects,
            records=None,
        )

    def scale(self, images: torch.Tensor) -> torch.Tensor:
        """Scale pixels [B, C, H, W] to float32 in [−1, 1], with the number of channels that the network takes."""
        low, high = self._levels[0], self._levels[1]
        numbers = images.float() / ((high - low) / 2) - (high + low) / (high - low)
        if images.dtype != torch.uint8:
            numbers = numbers.clamp(-1, 1)
        return numbers.expand(-1, self.channels, -1, -1) if images.shape[1] == 1 else numbers

    def normalise(self, images: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        """Normalise scaled images [B, C, H, W], or windows of images; which [B] are the numbers of the images.

        data.normalise=range leaves them; standard and case give every channel mean 0 and deviation 1, by the statistics of
        all training images or of the image's own case.
        """
        if self.case_statistics is not None:
            case = self.case_statistics[which.to(self.case_statistics.device)][..., None, None]
            return (images - case[:, 0]) / case[:, 1]
        if not self.standard:
            return images
        return (images - self._levels[2]) / self._levels[3]

    def prepare_inputs(self, images: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        """Scale and normalise images [B, C, H, W], or windows of images; which [B] are the numbers of the images."""
        return self.normalise(self.scale(images), which)

    def display_image(self, index: int) -> torch.Tensor:
        """Return the index-th image for display, float32 [C, H, W] from 0 to 255.

        With data.normalise=case, 16-bit images are cut at three deviations from the case's mean.
        """
        image = self.scale(self.images[index].to(self.device)[None])
        if self.case_statistics is not None and self.images.values.dtype != torch.uint8:
            image = (self.normalise(image, torch.tensor([index])) / 3).clamp(-1, 1)
        return (image[0] + 1) * 127.5

    @cached_property
    def _levels(self) -> torch.Tensor:
        """The scaling's low, high, mean and sd, float32 [4, C, 1, 1], on the device."""
        scaling = self.scaling
        levels = [scaling.low, scaling.high, scaling.mean, scaling.sd]
        return torch.tensor(levels, device=self.device)[:, :, None, None]


def _pick(values: Sequence[T], indices: Sequence[int]) -> tuple[T, ...]:
    """Return the values at the indices."""
    return tuple(values[index] for index in indices)
