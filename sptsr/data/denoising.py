"""Clean images with Gaussian noise added on the fly, and the prior of the noisy image."""

from __future__ import annotations

from typing import Any, Literal

import cv2
import numpy as np
import torch

from sptsr.core.errors import UserError
from sptsr.core.registry import DATASET_REGISTRY, register
from sptsr.data.checked import CheckedDataset, open_priors, to_tensor
from sptsr.data.transforms import Sample, augment, random_crop
from sptsr.images.decode import RGB
from sptsr.images.folder import ImageFolder
from sptsr.images.noise import add_noise, fixed_rng, noisy_image


@register(DATASET_REGISTRY)
class PriorDenoisingDataset(CheckedDataset):
    """Gaussian denoising.

    Training draws fresh noise for each sample of each epoch. A test adds one fixed noise to each
    image, drawn from its key and `noise_seed`, so that figures can be reproduced. The noise is
    neither clipped nor rounded, as in the protocol of DnCNN and FFDNet.

    A prior must come from what a user of the network has, so from a **noisy** image: that of the
    test, rounded to 8 bits, which `sptsr prior degrade --noise` writes. In training the masks of
    that one noisy image go with every fresh noise. The store is checked against it.

    Args:
        opt: the dataset section; `settings` documents its keys.

    Items: `lq` float32 [C, h, w], 0..1 plus noise; `gt` float32 [C, h, w] in 0..1; `sigma` float32, the
    noise level in 0..1; `prior` (`Prior` or None); `key`, `lq_path`, `gt_path`. C is 3, or 1 with `gray`.
    """

    def settings(
        self,
        name: str,
        dataroot_gt: str,
        phase: Literal['train', 'val', 'test'],
        sigma: float | list[Any],
        scale: int = 1,
        dataroot_prior: str | None = None,
        prior_sigma: float | None = None,
        noise_seed: int = 0,
        include: list[Any] | None = None,
        to_rgb: bool = False,
        gray: bool = False,
        gt_size: int | None = None,
        use_hflip: bool = False,
        use_rot: bool = False,
        batch_size_per_gpu: int = 1,
        num_worker_per_gpu: int = 0,
        pin_memory: bool = False,
    ) -> None:
        """The keys of the section.

        Args:
            name: what the dataset is called in tables.
            dataroot_gt: folder of clean images, or a BasicSR LMDB.
            phase: `train` crops and augments; taken from the section's name.
            sigma: noise level, of 255; in training also `[low, high]`, drawn evenly for each sample.
            scale: 1; taken from the top of the options.
            dataroot_prior: prior store of the noisy images; only units without masks do without.
            prior_sigma: noise level of the images that the store was made from; by default `sigma`.
            noise_seed: of the fixed noise.
            include: keep only images whose key matches one of these globs, such as `train/*`.
            to_rgb: convert gray, RGBA and 16-bit images instead of refusing them.
            gray: work on luminance (ITU-R BT.601), one channel.
            gt_size: side of a training crop, in pixels.
            use_hflip: flip horizontally at random.
            use_rot: rotate by quarters at random.
            batch_size_per_gpu, num_worker_per_gpu, pin_memory: of the loader.
        """
        del batch_size_per_gpu, num_worker_per_gpu, pin_memory
        if scale != 1:
            raise UserError(f'datasets: {name}: scale {scale}, but noise keeps the size; set scale: 1')
        self.name, self.train, self.gray = name, phase == 'train', gray
        self.levels = _levels(name, sigma, self.train)
        self.noise_seed = noise_seed
        self.use_hflip, self.use_rot = use_hflip, use_rot
        self.gt = ImageFolder(dataroot_gt, to_rgb or gray, [str(glob) for glob in include or ()])
        self.prior = open_priors(dataroot_prior, self.gt.keys)
        self.prior_sigma = prior_sigma if prior_sigma is not None else self.levels[0]
        if self.prior is not None and prior_sigma is None and self.levels[0] != self.levels[1]:
            raise UserError(f'datasets: {name}: sigma is a range; say with prior_sigma what the priors were made from')
        self.checked: set[str] = set()
        self.size = gt_size or 0
        if self.train and not gt_size:
            raise UserError(f"datasets: {name}: training needs 'gt_size', the side of a crop")

    def __len__(self) -> int:
        return len(self.gt)

    def __getitem__(self, index: int) -> dict[str, Any]:
        key = self.gt.keys[index]
        clean = self.gt.read(key)
        sample = Sample(clean, clean, self._prior(key, clean))
        low, high = self.levels
        if self.train:
            rng = np.random.default_rng(getattr(index, 'seed', None))
            if min(clean.shape[:2]) < self.size:
                raise UserError(
                    f'{self.gt.name(key)}: {clean.shape[0]}x{clean.shape[1]} is smaller than a training crop of '
                    f'{self.size} pixels; lower gt_size or remove the image'
                )
            sample = random_crop(sample, self.size, 1, rng)
            sample = augment(sample, self.use_hflip, self.use_rot, rng)
            level = low if low == high else float(rng.uniform(low, high))
        else:
            rng = fixed_rng(key, self.noise_seed)
            level = low
        gt = _luminance(sample.gt) if self.gray else sample.gt
        return {
            'lq': to_tensor(add_noise(gt, level, rng)),
            'gt': to_tensor(gt),
            'sigma': torch.tensor(level / 255, dtype=torch.float32),
            'prior': sample.prior,
            'key': key,
            'lq_path': self.gt.name(key),
            'gt_path': self.gt.name(key),
        }

    def _prior(self, key: str, clean: RGB) -> Any:
        if self.prior is None:
            return None
        if key in self.checked:
            return self.prior.get(key)
        prior = self.prior.get(key, noisy_image(clean, key, self.prior_sigma, self.noise_seed))
        self.checked.add(key)  # once a process: making the noisy image costs more than reading the clean one
        return prior


def _levels(name: str, sigma: float | list[Any], train: bool) -> tuple[float, float]:
    levels = sigma if isinstance(sigma, list | tuple) else [sigma, sigma]
    plain = len(levels) == 2 and all(isinstance(s, int | float) and not isinstance(s, bool) for s in levels)
    if not plain or not 0 <= levels[0] <= levels[1] <= 255:
        raise UserError(f'datasets: {name}: sigma {sigma} must be a number in 0..255, or [low, high]')
    if levels[0] != levels[1] and not train:
        raise UserError(f'datasets: {name}: sigma {sigma} is a range; a test has one noise level')
    return float(levels[0]), float(levels[1])


def _luminance(image: RGB) -> Any:
    return cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)[:, :, None]
