"""SPTModel: tunes the units of an SPTNet, and evaluates any network."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from basicsr.models.base_model import BaseModel
from basicsr.utils import tensor2img
from torch import Tensor

from sptsr.archs.adapter import load_adapter, load_params, save_adapter
from sptsr.archs.backbone import build_network, size_rules
from sptsr.archs.call import call_network
from sptsr.archs.spt_arch import SPTNet
from sptsr.archs.weights import load_strictly, read_weights
from sptsr.core import logs
from sptsr.core.distributed import Ranks
from sptsr.core.errors import UserError
from sptsr.core.registry import MODEL_REGISTRY, register
from sptsr.evaluation.evaluate import Results, evaluate, rgb_of
from sptsr.masks.batch import PriorBatch
from sptsr.report.boards import Boards
from sptsr.restoring.tiling import restore_padded, restore_tiled
from sptsr.tuning.tuner import Batch, NotFinite, Tuner


@register(MODEL_REGISTRY)
class SPTModel(BaseModel):
    """A network with what trains and evaluates it, in BasicSR's form.

    An `SPTNet` is tuned: only stem and units learn, and checkpoints hold only them. Any other
    registered network can be evaluated.

    Args:
        opt: complete options (see `sptsr.options.load_options`).
    """

    def __init__(self, opt: dict[str, Any]) -> None:
        super().__init__(opt)
        self.net_g = build_network(opt['network_g']).to(self.device)
        self._check_sizes()
        load_path = opt['path'].get('pretrain_network_g')
        if load_path is not None:
            self._load(load_path)
        self.net_g.eval()
        self.ranks = Ranks(opt['rank'], opt['world_size'])
        self.best_metric_results: dict[str, Any] = {}
        self.validation_results: dict[str, Results] = {}
        self.log_dict: OrderedDict[str, float] = OrderedDict()
        if self.is_train:
            self.init_training_settings()

    def _load(self, path: str) -> None:
        if isinstance(self.net_g, SPTNet):
            load_adapter(self.net_g, path)
        else:
            load_strictly(self.net_g, read_weights(path, self.opt['path'].get('param_key_g')), path)

    @property
    def net(self) -> SPTNet:
        """The network as an SPTNet; raises UserError when it is none."""
        if not isinstance(self.net_g, SPTNet):
            raise UserError('network_g: only an SPTNet is tuned; put the network into its backbone')
        return self.net_g

    def init_training_settings(self) -> None:
        """Makes what tunes the adapter; `optimizers` and `schedulers` are there for BasicSR's own code."""
        self.net.train()
        self.tuner = Tuner(self.net, self.opt['train'], self.ranks)
        self.optimizers = [self.tuner.optimizer]
        self.schedulers = [self.tuner.scheduler]

    def update_learning_rate(self, current_iter: int, warmup_iter: int = -1) -> None:
        """Sets the learning rate of an iteration, counted from 1; `warmup_iter` stands in the options."""
        del warmup_iter
        self.tuner.set_rates(current_iter)

    def feed_data(self, data: dict[str, Any]) -> None:
        """Moves a batch to the device; its masks go there as codes."""
        self.lq_paths = data.get('lq_path', [])
        self.lq = data['lq'].to(self.device, non_blocking=True)
        self.gt = data['gt'].to(self.device, non_blocking=True) if 'gt' in data else None
        self.sigma = data['sigma'].to(self.device, non_blocking=True) if 'sigma' in data else None
        self.masks: PriorBatch | None = None
        if isinstance(self.net_g, SPTNet) and self.net_g.uses_masks and self.net_g.enabled:
            prior = data.get('prior')
            if not isinstance(prior, PriorBatch):
                raise UserError(
                    f'{self.lq_paths[0]}: the unit uses masks but this dataset has no prior; '
                    'use PriorPairedImageDataset with dataroot_prior, or PlainUnit'
                )
            self.masks = prior.to(self.device, non_blocking=True)

    def optimize_parameters(self, current_iter: int) -> None:
        """Makes one step on the batch that was fed; raises UserError when it gives no finite numbers."""
        assert self.gt is not None
        try:
            self.log_dict = OrderedDict(self.tuner.step(Batch(self.lq, self.gt, self.masks, self.sigma)))
        except NotFinite as error:
            files = ', '.join(self.lq_paths)
            raise UserError(
                f'iteration {current_iter}: {error}; lower the learning rate or set clip_grad_norm, or look at {files}'
            ) from error

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within it the network has the moving average of its adapter, if there is one."""
        if not self.is_train or not self.tuner.params_ema:
            yield
            return
        own = {name: value.detach().clone() for name, value in self.net.adapter_state().items()}
        load_params(self.net, self.tuner.params_ema, 'params_ema')
        try:
            yield
        finally:
            load_params(self.net, own, 'params')

    @torch.inference_mode()
    def restore(self, data: dict[str, Any]) -> Tensor:
        """Returns the restored image of a batch, padded or tiled as the options say."""
        self.feed_data(data)
        scale = int(self.opt.get('scale', 1))
        net = self.net_g
        rules = size_rules(net, self.opt['network_g'])
        tile = self.opt['val'].get('tile')

        def forward(lq: Tensor, masks: PriorBatch | None) -> Tensor:
            return net(lq, masks, self.sigma) if isinstance(net, SPTNet) else call_network(net, lq, self.sigma)

        if tile:
            overlap = self.opt['val'].get('tile_overlap', 32)
            return restore_tiled(forward, self.lq, self.masks, rules, scale, tile, overlap)
        return restore_padded(forward, self.lq, self.masks, rules, scale)

    def _check_sizes(self) -> None:
        """Raises UserError unless the network's scale is the options', and it takes a training crop."""
        net = self.net_g
        if not isinstance(net, SPTNet):
            return
        scale = self.opt.get('scale', 1)
        name = type(net.backbone).__name__
        if net.scale != scale:
            raise UserError(f'scale: {scale}, but {name} as configured gives x{net.scale}; make them agree')
        crop = self.opt['datasets'].get('train', {}).get('gt_size') if self.is_train else None
        if crop and any(net.sizes.padding(crop // scale, crop // scale)):
            raise UserError(
                f'datasets.train.gt_size: {crop} makes LQ crops of {crop // scale}, but {name} takes multiples of '
                f'{net.sizes.multiple}, at least {net.sizes.minimum}; choose a multiple of {net.sizes.multiple * scale}'
            )

    def validation(self, dataloader: Any, current_iter: int | str, tb_logger: Any, save_img: bool = False) -> None:
        """Evaluates a dataset; the results stay in `validation_results[name]`.

        Args:
            dataloader: from `sptsr.data.loader.eval_loader`.
            current_iter: names the pictures in training.
            tb_logger: a `Boards`, anything else with `add_scalar`, or None.
            save_img: write the restored images.
        """
        name = dataloader.dataset.opt['name']
        val = self.opt['val']
        folder = Path(self.opt['path']['visualization']) / name if save_img else None
        suffix = f'_{current_iter}' if self.is_train else f'_{val["suffix"]}' if val.get('suffix') else ''

        def show(number: int, key: str, batch: dict[str, Any], image: Any) -> None:
            if isinstance(tb_logger, Boards) and number < tb_logger.pictures:
                lq, gt = (rgb_of(tensor2img(batch[k])) if k in batch else None for k in ('lq', 'gt'))
                assert lq is not None
                tb_logger.add_picture(f'{name}/{key}', lq, rgb_of(image), gt, self.masks, int(current_iter))

        was_training = self.net_g.training
        self.net_g.eval()
        try:
            with self.averaged():
                results = evaluate(
                    self.restore, dataloader, val['metrics'], self.ranks, folder, suffix, val['pbar'], show
                )
        finally:
            self.net_g.train(was_training)
        self.validation_results[name] = results
        if val['metrics'] and self.ranks.first:
            self._note_validation(name, results, current_iter, tb_logger)

    def _note_validation(self, name: str, results: Results, current_iter: int | str, tb_logger: Any) -> None:
        self._initialize_best_metric_results(name)
        parts = []
        for metric, record in results.items():
            text = f'{metric} {record["mean"]:.4f}'
            if record['ci95'] is not None:
                text += f' ± {record["ci95"]:.4f}'
            if self.is_train:
                self._update_best_metric_result(name, metric, record['mean'], current_iter)
                best = self.best_metric_results[name][metric]
                text += f' (best {best["val"]:.4f} @ {best["iter"]})'
                if tb_logger:
                    tb_logger.add_scalar(f'metrics/{name}/{metric}', record['mean'], current_iter)
            parts.append(text)
        logs.get().info('%s, %d images: %s', name, len(next(iter(results.values()))['per_image']), ', '.join(parts))

    def save(self, epoch: int, current_iter: int, path: str | None = None) -> None:
        """Writes the adapter to `models/net_g_<iter>.safetensors`, or to `path`."""
        del epoch
        target = path or str(Path(self.opt['path']['models']) / f'net_g_{current_iter}.safetensors')
        save_adapter(target, self.net, self.opt['network_g'], current_iter, self.tuner.params_ema or None)

    def training_state(self) -> dict[str, Any]:
        """Returns all that training needs to go on, as plain values and tensors."""
        return {
            **self.tuner.state(),
            'best_metric_results': self.best_metric_results,
            'backbone_sha256': self.net.backbone_digest(),
        }

    def resume_training(self, resume_state: dict[str, Any]) -> None:
        """Restores what `training_state` returned; raises UserError for another backbone or unit."""
        source = str(resume_state.get('path', 'training state'))
        if resume_state['backbone_sha256'] != self.net.backbone_digest():
            raise UserError(
                f'{source}: trained for another backbone or other weights; use the options it was made with'
            )
        self.tuner.load(resume_state, source)
        self.best_metric_results = resume_state['best_metric_results']

    def parameter_counts(self) -> dict[str, int]:
        """Returns numbers of parameters: `trainable` (adapter) and `total` (adapter and backbone)."""
        spt = isinstance(self.net_g, SPTNet)
        trainable = sum(p.numel() for p in self.net.adapter_parameters().values()) if spt else 0
        return {'trainable': trainable, 'total': sum(p.numel() for p in self.net_g.parameters())}
