"""Clean images with Gaussian noise added on the fly, and the prior of the noisy image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from sptsr.core.errors import UserError
from sptsr.core.registry import DATASET_REGISTRY, register
from sptsr.core.values import Range
from sptsr.data.checked import CheckedDataset, degrade_first, must_cover, must_hold, say_draws, to_tensor
from sptsr.data.described import Described
from sptsr.data.transforms import Sample, augment, drop_masks, random_turn, random_window
from sptsr.images.decode import RGB, image_digest, luminance
from sptsr.images.draws import Degradation
from sptsr.images.folder import ImageFolder
from sptsr.images.noise import add_noise, add_noise_to_window, fixed_rng
from sptsr.masks.prior import Prior
from sptsr.priors.store import PriorStore


@register(DATASET_REGISTRY)
class PriorDenoisingDataset(CheckedDataset):
    """Gaussian denoising.

    The noise is neither clipped nor rounded, as in the protocol of DnCNN and FFDNet. A test adds one
    fixed noise to each image, drawn from its key and `noise_seed`, so that figures can be reproduced.

    What noise training adds depends on what the masks know (`StoreHeader.saw_image`):

    - Masks that were made from a noisy image (felzenszwalb, SAM) belong to that noise. A training sample
      picks one of the draws that `sptsr prior degrade --draws` wrote, makes exactly that noise again, and uses
      the masks of that draw. With other noise they would be a second look at the clean image, which the units
      learn to trust and which no test has.
    - Masks whose source never looked at the noisy image (labels, random regions, the oracle), or no masks: fresh
      noise for each sample of each epoch.

    Masks are made from the noisy image rounded to 8 bits, which is what a user of the network has; the store's
    digests are checked against it.

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
        sigma: float | list[float],
        scale: int = 1,
        dataroot_prior: str | None = None,
        prior_sigma: Annotated[float, Range(0, 255)] | None = None,
        noise_seed: Annotated[int, Range(0, 9223372036854775807)] = 0,
        include: list[Any] | None = None,
        to_rgb: bool = False,
        gray: bool = False,
        gt_size: Annotated[int, Range(1, 65536)] | None = None,
        use_hflip: bool = False,
        use_rot: bool = False,
        prior_dropout: Annotated[float, Range(0, 1)] = 0.0,
        batch_size_per_gpu: Annotated[int, Range(1, 65536)] = 1,
        num_worker_per_gpu: Annotated[int, Range(0, 1024)] = 0,
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
            prior_sigma: noise level of the images that the store was made from, where the store does not say so
                itself (0.1); by default `sigma`.
            noise_seed: of the fixed noise; `--seed` of `sptsr prior degrade`.
            include: keep only images whose key matches one of these globs, such as `train/*`.
            to_rgb: convert gray, RGBA and 16-bit images instead of refusing them.
            gray: work on luminance (ITU-R BT.601), one channel.
            gt_size: side of a training crop, in pixels.
            use_hflip: flip horizontally at random.
            use_rot: rotate by quarters at random.
            prior_dropout: probability, 0..1, that a training sample comes without masks, so that one adapter works
                with and without them.
            batch_size_per_gpu, num_worker_per_gpu, pin_memory: of the loader.
        """
        if scale != 1:
            raise UserError(f'datasets: {name}: scale {scale}, but noise keeps the size; set scale: 1')
        self.name, self.train, self.gray = name, phase == 'train', gray
        self.use_hflip, self.use_rot = use_hflip, use_rot
        self.dropout = prior_dropout
        self.size = gt_size or 0
        if self.train and not gt_size:
            raise UserError(f"datasets: {name}: training needs 'gt_size', the side of a crop")
        low, high = _levels(name, sigma, self.train)
        self.noise = Degradation('noise', low, high, noise_seed, gray=gray)
        self.gt = ImageFolder(dataroot_gt, to_rgb or gray, [str(glob) for glob in include or ()])
        self.prior = PriorStore(dataroot_prior) if dataroot_prior is not None else None
        self.fresh = self.train
        if self.prior is not None:
            self._bind(self.prior, prior_sigma)
        self.checked: set[str] = set()
        self.described = Described()

    def _bind(self, store: PriorStore, prior_sigma: float | None) -> None:
        """Decides which noise goes with the masks of a store; raises UserError where that is not the data's."""
        saw_image, made_from = store.header.saw_image, store.degradation
        if made_from is None:  # a store of 0.1, or of the clean images
            level = self.noise.low if prior_sigma is None else prior_sigma
            made_from = replace(self.noise, low=level, high=level)
        wanted = replace(self.noise, draws=made_from.draws)
        if not isinstance(made_from, Degradation) or made_from.kind != 'noise' or (saw_image and made_from != wanted):
            raise UserError(
                f"datasets: {self.name}: {store.path} holds masks of 'prior degrade {made_from}', but these data are "
                f"of '{wanted}', and masks belong to their own noise; {self._remedy()}"
            )
        self.made_from = made_from
        if saw_image:
            self.noise, self.fresh = wanted, False
        draws = made_from.draws if self.train and saw_image else 1
        must_hold(store, [made_from.key(key, draw) for key in self.gt.keys for draw in range(draws)])
        if self.train and saw_image:
            say_draws(self.name, 'noise', draws)

    def _remedy(self) -> str:
        return degrade_first(self.gt.root, replace(self.noise, draws=4 if self.train else 1))

    def __len__(self) -> int:
        return len(self.gt)

    def __getitem__(self, index: int) -> dict[str, Any]:
        key = self.gt.keys[index]
        clean = self.gt.read(key)
        if self.train:
            rng = np.random.default_rng(getattr(index, 'seed', None))
            sample, level = self._training_sample(key, clean, rng)
            sample = drop_masks(sample, self.dropout, rng)
        else:
            level = self.noise.low
            sample = Sample(self._noisy(key, clean, 0), self._channels(clean), self._prior(key, clean, 0))
        return {
            'lq': to_tensor(sample.lq),
            'gt': to_tensor(sample.gt),
            'sigma': torch.tensor(level / 255, dtype=torch.float32),
            'prior': sample.prior,
            'key': key,
            'lq_path': self.gt.name(key),
            'gt_path': self.gt.name(key),
        }

    def _training_sample(self, key: str, clean: RGB, rng: np.random.Generator) -> tuple[Sample, float]:
        """Returns a random crop with its noise and its masks, and the noise level, of 255."""
        must_cover(clean, self.size, self.gt.name(key))
        noise = self.noise
        draw = int(rng.integers(noise.draws)) if noise.draws > 1 else 0
        prior = self._prior(key, clean, draw)
        if prior is not None and self.describes_masks and not self.fresh:
            prior = self.described.whole((key, draw), prior, lambda: self._noisy(key, clean, draw))
        top, left = random_window(clean.shape[:2], self.size, rng)
        crop = Sample(clean, clean, prior).crop(top, left, self.size, self.size, 1)
        gt = self._channels(crop.gt)
        if self.fresh:
            turn = random_turn(self.use_hflip, self.use_rot, rng)
            sample = turn(Sample(gt, gt, crop.prior))
            level = noise.low if noise.low == noise.high else float(rng.uniform(noise.low, noise.high))
            sample = replace(sample, lq=add_noise(sample.gt, level, rng))
            if prior is None or crop.prior is None or not self.describes_masks:
                return sample, level
            coarse = replace(turn(replace(crop, prior=crop.prior.at(1))), lq=sample.lq, gt=sample.gt)
            known = self.described.noisy_statistics(key, prior, lambda: self._channels(clean), coarse, level, rng)
            assert sample.prior is not None
            return replace(sample, prior=replace(sample.prior, statistics=known)), level
        level = noise.level(key, draw)
        lq = add_noise_to_window(gt, top, left, clean.shape[1], level, fixed_rng(key, noise.seed, draw))
        return augment(Sample(lq, gt, crop.prior), self.use_hflip, self.use_rot, rng), level

    def _noisy(self, key: str, clean: RGB, draw: int) -> npt.NDArray[np.float32]:
        """Returns a draw of the noisy image, [H, W, C] of 0..1 plus noise."""
        return add_noise(self._channels(clean), self.noise.level(key, draw), fixed_rng(key, self.noise.seed, draw))

    def _channels(self, image: Any) -> npt.NDArray[np.uint8]:
        return luminance(image) if self.gray else image

    def _prior(self, key: str, clean: RGB, draw: int) -> Prior | None:
        """Returns the masks of a draw. Once a process, it checks that they were made from that very image."""
        if self.prior is None:
            return None
        entry = self.made_from.key(key, draw)
        if entry in self.checked:  # making the noisy image costs more than reading the clean one
            return self.prior.get(entry)
        digest = self.prior.raw(entry)[0]
        image = next((image for image in self._sources(key, clean, draw) if image_digest(image) == digest), None)
        if image is None:
            raise UserError(
                f'{self.prior.path}[{entry}]: the prior was made from another image of this name, or with other '
                f'noise; {self._remedy()}'
            )
        self.checked.add(entry)
        return self.prior.get(entry, image)

    def _sources(self, key: str, clean: RGB, draw: int) -> Iterator[RGB]:
        """Yields the images that the masks of a draw may have been made from."""
        assert self.prior is not None
        blind = not self.prior.header.saw_image
        if blind:
            yield clean
        yield self.made_from.noisy(clean, key, draw)
        if blind and self.made_from.gray:  # 0.1 knew no gray images to make priors from
            yield replace(self.made_from, gray=False).noisy(clean, key, draw)


def _levels(name: str, sigma: float | list[Any], train: bool) -> tuple[float, float]:
    levels = sigma if isinstance(sigma, list | tuple) else [sigma, sigma]
    plain = len(levels) == 2 and all(isinstance(s, int | float) and not isinstance(s, bool) for s in levels)
    if not plain or not 0 <= levels[0] <= levels[1] <= 255:
        raise UserError(f'datasets: {name}: sigma {sigma} must be a number in 0..255, or [low, high]')
    if levels[0] != levels[1] and not train:
        raise UserError(f'datasets: {name}: sigma {sigma} is a range; a test has one noise level')
    return float(levels[0]), float(levels[1])
