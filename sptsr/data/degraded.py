"""Clean images that are degraded on the fly by several steps, and the prior of the degraded image."""

from __future__ import annotations

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
from sptsr.data.transforms import Sample, augment, drop_masks, random_crop
from sptsr.images.chain import DegradationChain
from sptsr.images.decode import RGB, image_digest, luminance
from sptsr.images.degrade import degraded
from sptsr.images.folder import ImageFolder
from sptsr.masks.prior import Prior
from sptsr.priors.store import PriorStore


@register(DATASET_REGISTRY)
class PriorDegradedDataset(CheckedDataset):
    """Blur, loss of resolution, noise and JPEG in an order and of strengths of one's own.

    The LQ image is what `sptsr prior degrade --steps` writes with the same steps and seed: rounded to 8 bits, whole
    image first and then cut, so that the network and the source of masks see the very same pixels. A test has draw 0
    of each image.

    As in `PriorDenoisingDataset`, training depends on what the masks know. Masks that were made from degraded images go
    with the draws that they were made from (`prior degrade --draws K`), one of K a sample. Masks whose source never
    looked at them (labels, random regions, the oracle), or no masks: a new draw for each sample of each epoch.

    Args:
        opt: the dataset section; `settings` documents its keys.

    Items: `lq` float32 [C, h, w] and `gt` float32 [C, scale h, scale w] in 0..1; `sigma` float32 in 0..1 where the key
    says it; `prior` (`Prior` or None); `key`, `lq_path`, `gt_path`. C is 3, or 1 with `gray`.
    """

    def settings(
        self,
        name: str,
        dataroot_gt: str,
        phase: Literal['train', 'val', 'test'],
        scale: int,
        degradation: list[str],
        sigma: Annotated[float, Range(0, 255)] | None = None,
        dataroot_prior: str | None = None,
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
            scale: size of GT over size of LQ; taken from the top of the options.
            degradation: the steps in their order, each `KIND=AMOUNT` or `KIND=LOW:HIGH`, as `--steps` of
                `sptsr prior degrade` takes them: `[blur=0.8:1.6, noise=5:25, jpeg=30:80]`. With a scale above 1, one is
                `downsample=SCALE`.
            sigma: noise level, of 255, that a network is told which takes one; none is told by default.
            dataroot_prior: prior store of the degraded images; only units without masks do without.
            noise_seed: of the fixed draws; `--seed` of `sptsr prior degrade`.
            include: keep only images whose key matches one of these globs, such as `train/*`.
            to_rgb: convert gray, RGBA and 16-bit images instead of refusing them.
            gray: degrade the luminance (ITU-R BT.601), one channel.
            gt_size: side of a training crop, in GT pixels.
            use_hflip: flip horizontally at random.
            use_rot: rotate by quarters at random.
            prior_dropout: probability, 0..1, that a training sample comes without masks, so that one adapter works
                with and without them.
            batch_size_per_gpu, num_worker_per_gpu, pin_memory: of the loader.
        """
        self.name, self.scale, self.train, self.gray = name, scale, phase == 'train', gray
        self.use_hflip, self.use_rot = use_hflip, use_rot
        self.dropout = prior_dropout
        self.sigma = sigma
        try:
            self.chain = DegradationChain.of(degradation, noise_seed, gray=gray)
        except UserError as error:
            raise UserError(f'datasets: {name}: {error}') from error
        if self.chain.scale != scale:
            remedy = f'add downsample={scale}' if self.chain.scale == 1 else f'set scale: {self.chain.scale}'
            raise UserError(f'datasets: {name}: the degradation keeps 1/{self.chain.scale} of the size; {remedy}')
        self.lq_size = 0
        if self.train:
            if not gt_size or gt_size % scale:
                raise UserError(f'datasets: {name}: gt_size: {gt_size} must be a multiple of the scale {scale}')
            self.lq_size = gt_size // scale
        self.gt = ImageFolder(dataroot_gt, to_rgb or gray, [str(glob) for glob in include or ()])
        self.prior = PriorStore(dataroot_prior) if dataroot_prior is not None else None
        self.fresh = self.train
        if self.prior is not None:
            self._bind(self.prior)
        self.checked: set[str] = set()
        self.described = Described()

    def _bind(self, store: PriorStore) -> None:
        """Decides which draws go with the masks of a store; raises UserError where these are of other images."""
        saw_image, made_from = store.header.saw_image, store.degradation
        draws = made_from.draws if made_from is not None else 1
        wanted = replace(self.chain, draws=draws)
        if saw_image and made_from != wanted:
            raise UserError(
                f"datasets: {self.name}: {store.path} holds masks of 'prior degrade {made_from or '(not known)'}', but "
                f"these data are of '{wanted}', and masks belong to their own draw; {self._remedy()}"
            )
        self.made_from = made_from
        if saw_image:
            self.chain, self.fresh = wanted, False
        count = draws if self.train and saw_image else 1
        must_hold(store, [self._entry(key, draw) for key in self.gt.keys for draw in range(count)])
        if self.train and saw_image:
            say_draws(self.name, 'images', draws)

    def _entry(self, key: str, draw: int) -> str:
        """Returns the key of the masks of a draw; those of a source that saw none of them are the same for all."""
        assert self.prior is not None
        made_from = self.made_from
        return key if made_from is None else made_from.key(key, draw if self.prior.header.saw_image else 0)

    def _remedy(self) -> str:
        return degrade_first(self.gt.root, replace(self.chain, draws=4 if self.train else 1))

    def __len__(self) -> int:
        return len(self.gt)

    def __getitem__(self, index: int) -> dict[str, Any]:
        key = self.gt.keys[index]
        clean = self.gt.read(key)
        rng = np.random.default_rng(getattr(index, 'seed', None))
        draw = 0
        if self.fresh:
            draw = int(rng.integers(1 << 62))
        elif self.train and self.chain.draws > 1:
            draw = int(rng.integers(self.chain.draws))
        lq = self._degraded(key, clean, draw)
        sample = Sample(lq, luminance(clean) if self.gray else clean, self._prior(key, clean, lq, draw))
        if self.train:
            sample = self._cut(key, sample, draw, rng)
        item = {'lq': to_tensor(sample.lq), 'gt': to_tensor(sample.gt), 'prior': sample.prior, 'key': key}
        if self.sigma is not None:
            item['sigma'] = torch.tensor(self.sigma / 255, dtype=torch.float32)
        return item | {'lq_path': self.gt.name(key), 'gt_path': self.gt.name(key)}

    def _cut(self, key: str, sample: Sample, draw: int, rng: np.random.Generator) -> Sample:
        """Returns a random crop, turned and flipped, with or without its masks."""
        must_cover(sample.gt, self.lq_size * self.scale, self.gt.name(key))
        if sample.prior is not None and self.describes_masks:
            # a fresh draw is seen once: what is taken of it need not be kept
            described = Described() if self.fresh else self.described
            sample = replace(sample, prior=described.whole((key, draw), sample.prior, lambda: sample.lq))
        crop = random_crop(sample, self.lq_size, self.scale, rng)
        return drop_masks(augment(crop, self.use_hflip, self.use_rot, rng), self.dropout, rng)

    def _degraded(self, key: str, clean: RGB, draw: int) -> npt.NDArray[np.uint8]:
        try:
            return self.chain.degraded(clean, key, draw)
        except UserError as error:
            raise UserError(f'{self.gt.root}: {error}') from error

    def _prior(self, key: str, clean: RGB, lq: npt.NDArray[np.uint8], draw: int) -> Prior | None:
        """Returns the masks of a draw. Once a process, it checks that they were made from that very image."""
        if self.prior is None:
            return None
        entry = self._entry(key, draw)
        prior = self.prior.get(entry)
        if prior.size != lq.shape[:2]:
            raise UserError(
                f'{self.prior.path}[{entry}]: the prior is {prior.size[0]}x{prior.size[1]}, the degraded image '
                f'{lq.shape[0]}x{lq.shape[1]} (height x width); {self._remedy()}'
            )
        if entry not in self.checked and not self._is_of(entry, key, clean, lq):
            raise UserError(
                f'{self.prior.path}[{entry}]: the prior was made from another image of this name, or degraded '
                f'otherwise; {self._remedy()}'
            )
        self.checked.add(entry)
        return prior

    def _is_of(self, entry: str, key: str, clean: RGB, lq: npt.NDArray[np.uint8]) -> bool:
        """Returns whether masks belong to an image: made from this draw of it or, where they saw none, named by it."""
        assert self.prior is not None
        digest = self.prior.raw(entry)[0]
        if self.prior.header.saw_image:
            return digest == image_digest(np.broadcast_to(lq, (*lq.shape[:2], 3)))
        if self.made_from is None:  # of the clean images or, where the network enlarges, of LR ones
            return self.scale > 1 or digest == image_digest(clean)
        return digest == image_digest(next(degraded(clean, key, self.made_from))[1])
