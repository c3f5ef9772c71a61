"""SPTModel: tunes the units of an SPTNet, and evaluates any network."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from basicsr.models.base_model import BaseModel
from basicsr.utils import tensor2img
from torch import Tensor

from sptsr.archs.adapter import is_backbone_of, load_adapter, load_params, save_adapter
from sptsr.archs.backbone import build_network, size_rules, tile_rules
from sptsr.archs.call import call_network
from sptsr.archs.sizes import SizeRules
from sptsr.archs.spt_arch import SPTNet
from sptsr.archs.weights import load_strictly, read_weights
from sptsr.core import logs
from sptsr.core.distributed import Ranks
from sptsr.core.errors import UserError
from sptsr.core.files import sha256_file
from sptsr.core.registry import MODEL_REGISTRY, register
from sptsr.evaluation.evaluate import evaluate, rgb_of
from sptsr.evaluation.metrics import better_of
from sptsr.evaluation.records import Results, shown_exclusions, shown_mean
from sptsr.masks.batch import PriorBatch
from sptsr.priors.store import PriorStore
from sptsr.report.boards import Boards
from sptsr.restoring.tiling import restore_padded, restore_tiled
from sptsr.tuning.adapter_files import adopt_best, best_file, numbered_file, trained_with
from sptsr.tuning.fits import check_fits
from sptsr.tuning.tuner import Batch, Tuner
from sptsr.tuning.watch import Watch

# See `SPTModel.validation`.
OnImage = Callable[[str, str, dict[str, Any], Any, dict[str, float]], None]

UNTRAINED = 0.01  # share of the untrained adapter in an average that is worth a warning


@register(MODEL_REGISTRY)
class SPTModel(BaseModel):
    """A network with what trains and evaluates it, in BasicSR's form.

    An `SPTNet` is tuned: only its adapter learns (stem and units, or what `tune` says), and checkpoints hold only that.
    Any other registered network can be evaluated.

    Args:
        opt: complete options (see `sptsr.options.load_options`).
    """

    def __init__(self, opt: dict[str, Any]) -> None:
        super().__init__(opt)
        self.net_g = build_network(opt['network_g']).to(self.device)
        if isinstance(self.net_g, SPTNet):
            check_fits(self.net_g, opt)
        self.tile_rules: SizeRules | None = None  # measured where tiles are first asked for
        self.adapter: dict[str, Any] | None = None  # the one that was loaded: file, iteration, entry
        load_path = opt['path'].get('pretrain_network_g')
        if load_path is not None:
            self._load(load_path)
        self.net_g.eval()
        if isinstance(self.net_g, SPTNet) and not self.is_train:
            self.net_g.merge()
        self.ranks = Ranks(opt['rank'], opt['world_size'])
        self.stopped_by = 0  # the signal that ended the training early
        self.best_metric_results: dict[str, Any] = {}
        self.validation_results: dict[str, Results] = {}
        self.validated: dict[str, Any] = {'iter': 0, 'metrics': {}}  # means of the last validation, by set and metric
        self.log_dict: OrderedDict[str, float] = OrderedDict()
        # Whether other options had a part in the run, and its largest number of processes.
        self.history: dict[str, Any] = {'changed': False, 'processes': 1}
        if self.is_train:
            self.init_training_settings()

    def _load(self, path: str) -> None:
        key = self.opt['path'].get('param_key_g')
        if not isinstance(self.net_g, SPTNet):
            load_strictly(self.net_g, read_weights(path, key), path)
            return
        adapter = load_adapter(self.net_g, path, key)
        self.adapter = {
            'file': path,
            'sha256': sha256_file(path),
            'iteration': adapter.iteration,
            'entry': adapter.entry(key, path),
            'seed': adapter.trained_with.get('seed'),
        }
        if self.adapter['entry'] == 'params_ema':
            self.adapter['untrained'] = adapter.untrained

    def log_adapter(self) -> None:
        """Logs which adapter was loaded, and whether its average holds a part of the untrained one."""
        if self.adapter is None:
            return
        file, iteration, entry = (self.adapter[key] for key in ('file', 'iteration', 'entry'))
        kind = 'moving average' if entry == 'params_ema' else 'last values'
        logs.get().info('Adapter: %s of %s, iteration %d (%s)', entry, file, iteration, kind)
        untrained = self.adapter.get('untrained', 0.0)
        if untrained is None or untrained > UNTRAINED:
            share = 'ema_decay^iteration' if untrained is None else f'{untrained:.1%}'
            logs.get().warning(
                '%s: %s of its moving average is the untrained adapter; path.param_key_g: params takes the last values',
                *(file, share),
            )

    @property
    def models(self) -> Path:
        """Folder of the run's adapters."""
        return Path(self.opt['path']['models'])

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
        self.watch = Watch(self.net)
        self.optimizers = [self.tuner.optimizer]
        self.schedulers = [self.tuner.scheduler]

    def update_learning_rate(self, current_iter: int, warmup_iter: int = -1) -> None:
        """Sets the learning rate of an iteration, counted from 1; `warmup_iter` is BasicSR's and not used."""
        self.tuner.set_rates(current_iter)

    def feed_data(self, data: dict[str, Any]) -> None:
        """Moves a batch to the device, its masks as codes; raises UserError when the unit needs masks and has none."""
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
        batch = Batch(self.lq, self.gt, self.masks, self.sigma, self.lq_paths)
        self.log_dict = OrderedDict(self.tuner.step(batch))

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within the context the network has the moving average, if there is one; after it, its own adapter again."""
        average = self.tuner.average if self.is_train else None
        if average is None:
            yield
            return
        own = {name: value.detach().clone() for name, value in self.net.adapter_state().items()}
        load_params(self.net, average.tensors, 'params_ema')
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
        if tile and self.tile_rules is None:
            self.tile_rules = tile_rules(net, rules)

        def forward(lq: Tensor, masks: PriorBatch | None) -> Tensor:
            return net(lq, masks, self.sigma) if isinstance(net, SPTNet) else call_network(net, lq, self.sigma)

        if tile:
            overlap = self.opt['val'].get('tile_overlap', 32)
            return restore_tiled(forward, self.lq, self.masks, self.tile_rules or rules, scale, tile, overlap)
        return restore_padded(forward, self.lq, self.masks, rules, scale)

    def validation(
        self,
        dataloader: Any,
        current_iter: int | str,
        tb_logger: Any,
        save_img: bool = False,
        on_image: OnImage | None = None,
    ) -> None:
        """Evaluates a dataset; the results stay in `validation_results[name]`.

        Args:
            dataloader: from `sptsr.data.loader.eval_loader`.
            current_iter: names the pictures in training.
            tb_logger: a `Boards`, anything else with `add_scalar`, or None.
            save_img: write the restored images.
            on_image: is given name of the set, key, batch, restored image and figures by metric of each image.
        """
        name = dataloader.dataset.opt['name']
        val = self.opt['val']
        folder = Path(self.opt['path']['visualization']) / name if save_img else None
        suffix = f'_{current_iter}' if self.is_train else f'_{val["suffix"]}' if val.get('suffix') else ''

        def show(number: int, key: str, batch: dict[str, Any], image: Any, figures: dict[str, float]) -> None:
            if isinstance(tb_logger, Boards) and number < tb_logger.pictures:
                lq, gt = (rgb_of(tensor2img(batch[k])) if k in batch else None for k in ('lq', 'gt'))
                assert lq is not None
                tb_logger.add_picture(f'{name}/{key}', lq, rgb_of(image), gt, self.masks, int(current_iter))
            if on_image is not None:
                on_image(name, key, batch, image, figures)

        was_training = self.net_g.training
        self.net_g.eval()
        try:
            with self.averaged():
                store = (val.get('bands') or {}).get(name)
                bands = None if store is None else PriorStore(store)
                results = evaluate(
                    self.restore, dataloader, val['metrics'], self.ranks, folder, suffix, val['pbar'], show, bands
                )
        finally:
            self.net_g.train(was_training)
        self.validation_results[name] = results
        with self.ranks.together():
            if val['metrics'] and self.ranks.first:
                self._note_validation(name, results, current_iter, tb_logger)

    def _note_validation(self, name: str, results: Results, current_iter: int | str, tb_logger: Any) -> None:
        parts = []
        if self.is_train:
            if self.validated['iter'] != current_iter:
                self.validated = {'iter': current_iter, 'metrics': {}}
            self.validated['metrics'][name] = {metric: record['mean'] for metric, record in results.items()}
        for metric, record in results.items():
            text = f'{metric} {shown_mean(record)}'
            if record['excluded']:
                text += f' ({shown_exclusions(record)})'
            if self.is_train and record['mean'] is not None and metric in self.opt['val']['metrics']:
                best = self._note_best(name, metric, record['mean'], int(current_iter))
                if best is not None:
                    text += f' (best {best["val"]:.4f} @ {best["iter"]})'
                if tb_logger:
                    tb_logger.add_scalar(f'metrics/{name}/{metric}', record['mean'], current_iter)
            parts.append(text)
        logs.get().info('%s, %d images: %s', name, len(results.images), ', '.join(parts) or 'restored')

    def _note_best(self, name: str, metric: str, value: float, iteration: int) -> dict[str, Any] | None:
        """Saves the adapter when its figure is the best one; returns the record of the best, in BasicSR's form.

        A figure that is infinite or not a number is never the best.
        """
        arguments = dict(self.opt['val']['metrics'][metric])
        better = better_of(arguments)
        records = self.best_metric_results.setdefault(name, {})
        best = records.get(metric)
        of_others = best is not None and (best['better'] != better or best.get('arguments', arguments) != arguments)
        if best is not None and (of_others or not math.isfinite(best['val'])):
            best = None  # of other options, or of sptsr 0.1, which counted infinite figures
        sign = 1 if better == 'higher' else -1
        if math.isfinite(value) and (best is None or sign * value > sign * best['val']):
            best = records[metric] = {'better': better, 'val': value, 'iter': iteration, 'arguments': arguments}
            self.save(-1, iteration, str(best_file(self.models, name, metric)))
        return best

    def save(self, epoch: int, current_iter: int, path: str | None = None) -> None:
        """Writes the adapter to `models/net_g_<iter>.safetensors`, or to `path`.

        Raises:
            UserError: the file cannot be written, or the backbone has changed.
        """
        self.watch.check()
        target = path or str(numbered_file(self.models, current_iter))
        average = self.tuner.average
        tensors, untrained = (None, 0.0) if average is None else (average.tensors, average.untrained)
        record = trained_with(self.opt)
        if self.validated['iter'] == current_iter:
            record['metrics'] = self.validated['metrics']
        save_adapter(target, self.net, self.opt['network_g'], current_iter, tensors, untrained, record)

    def training_state(self) -> dict[str, Any]:
        """Returns all that a run needs to continue, as plain values and tensors."""
        return {
            **self.tuner.state(),
            'best_metric_results': self.best_metric_results,
            'validated': self.validated,
            'backbone_sha256': self.net.backbone_digest(),
            'rules': self.net.rules,
            'history': self.history,
        }

    def resume_training(self, resume_state: dict[str, Any]) -> None:
        """Restores what `training_state` returned; raises UserError for another backbone or unit."""
        source = str(resume_state.get('path', 'training state'))
        if not is_backbone_of(self.net, resume_state['backbone_sha256']):
            raise UserError(
                f'{source}: trained for another backbone or other weights; use the options it was made with'
            )
        self.tuner.load(resume_state, source)
        self.best_metric_results = resume_state['best_metric_results']
        self.validated = resume_state.get('validated', self.validated)
        if self.ranks.first:
            adopt_best(self.models, self.best_metric_results)

    def parameter_counts(self) -> dict[str, int]:
        """Returns numbers of parameters: `trainable` (adapter) and `total` (adapter and backbone)."""
        spt = isinstance(self.net_g, SPTNet)
        trainable = sum(p.numel() for p in self.net.adapter_parameters().values()) if spt else 0
        return {'trainable': trainable, 'total': sum(p.numel() for p in self.net_g.parameters())}
