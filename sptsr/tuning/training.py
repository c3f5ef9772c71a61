"""The tuning pipeline: `sptsr train -opt X.yml`, also `python -m sptsr.train -opt X.yml`."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from logging import Logger
from pathlib import Path
from typing import Any

import torch
from basicsr.utils import AvgTimer, MessageLogger

from sptsr.core import logs
from sptsr.core.distributed import Ranks
from sptsr.core.errors import UserError
from sptsr.core.progress import bar
from sptsr.core.version import RULES
from sptsr.data.checked import open_dataset
from sptsr.data.loader import TrainStream, train_loader
from sptsr.options.load import Options
from sptsr.report.boards import Boards
from sptsr.tuning.adapter_files import latest_file, with_adapters
from sptsr.tuning.model import UNTRAINED, SPTModel
from sptsr.tuning.run_folder import RunFolder
from sptsr.tuning.startup import build_spt_model, eval_loaders, start_log, started, worker_killed
from sptsr.tuning.states import prune, put_aside_later, write_state

_AT_ONCE = 0.5  # seconds in which several signals are one


class _Stop:
    """Notes SIGINT or SIGTERM in `asked`, at which the loop looks (0: none); a later one raises KeyboardInterrupt.

    The kernel tells the end of torchrun once for each of its threads, so what comes at once is one signal.
    """

    def __init__(self) -> None:
        self.asked = 0
        self.since = 0.0

    def __enter__(self) -> _Stop:
        self.before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: object) -> None:
        if not self.asked:
            self.asked, self.since = number, time.monotonic()
            logs.get().info('%s: finishing this step and saving', signal.Signals(number).name)
        elif time.monotonic() - self.since > _AT_ONCE:
            raise KeyboardInterrupt


def train_pipeline(
    path: str | os.PathLike[str],
    root: str | os.PathLike[str] = '.',
    auto_resume: bool = False,
    fresh: bool = False,
    force: Sequence[str] = (),
    progress: bool = False,
    launcher: str = 'none',
    quiet: bool = False,
) -> SPTModel:
    """Tunes an adapter as an option file says, and continues a run that was interrupted.

    A run continues from the newest readable training state of `experiments/<name>` when that was made with the
    same options; with `auto_resume`, also when it was made with others. A finished run, or one of other
    options, is renamed to `<name>_archived_<time>`, as BasicSR does.

    Args:
        path: the option file.
        root: where `experiments/` and `tb_logger/` go.
        auto_resume: continue also when the options have changed, for example to a longer `total_iter`.
        fresh: rename an unfinished run as well, and start a new one.
        force: `--force_yml` entries.
        progress: show a live line; what is logged every `print_freq` then goes to the log file only.
        launcher: `none`, `pytorch` or `slurm` (see `sptsr.core.distributed.start_ranks`).
        quiet: only warnings go to stderr; the log file gets all lines.

    Returns:
        the model after its last iteration; its `stopped_by` is the signal that ended the run early, or 0.

    Raises:
        UserError: any mistake in options, data, weights or state, before a folder is made.
    """
    with started(path, True, root, force, launcher) as (options, ranks, lock):
        opt, home = options.opt, lock.folder
        folder, state = RunFolder(options, Path(root), lock), None
        if fresh and opt['path'].get('resume_state'):
            raise UserError('--fresh: begins anew, and path.resume_state names a state to go on from; remove one')
        with ranks.together():
            if ranks.first and not fresh:
                state = folder.found_state(auto_resume)
        state = ranks.share(state)
        with ranks.together():
            loaders = _Loaders(opt, state['iter'] if state else 0, ranks)
            if state and state['rules'] != RULES:
                opt['network_g'] = {**opt['network_g'], 'rules': state['rules']}
            model = build_spt_model(opt)
            loaders.dataset.describes_masks = model.net.uses_statistics
            if state:
                model.resume_training(state)
            before = state.get('history', {'changed': True}) if state else {'changed': False}
            differs = state is not None and state['options_sha256'] != options.sha256
            processes = max(before.get('processes', 1), ranks.world)
            model.history = {'changed': before['changed'] or differs, 'processes': processes}
        with ranks.together():
            if ranks.first:
                folder.prepare(anew=state is None)
                if state:
                    left = differs or bool(opt['path'].get('resume_state'))
                    put_aside_later(home / 'training_states', home / 'models', state['iter'], left)
                    if left:
                        model.best_metric_results = with_adapters(home / 'models', model.best_metric_results)
        model.best_metric_results = ranks.share(model.best_metric_results)
        logger = start_log(opt, ranks, not progress, quiet)
        _log_start(logger, opt, model, loaders, state)
        if state and (was := before.get('processes', 1)) != ranks.world:
            logger.warning('Processes of the run: %d so far, %d now; each takes a batch of its own.', was, ranks.world)
        if folder.aside is not None:
            logger.info('The run that was called so is put aside: %s', folder.aside)
        with Boards(opt, root, ranks.first, state is not None) as boards, _Stop() as stop:
            _run(options, model, loaders, boards, stop, progress and ranks.first)
    return model


class _Loaders:
    """The training stream and the validation sets of an option file."""

    def __init__(self, opt: dict[str, Any], start: int, ranks: Ranks) -> None:
        data = opt['datasets']['train']
        self.batch = int(data['batch_size_per_gpu']) * int(opt['train']['accumulate'])
        self.dataset = open_dataset(data)
        self.images = len(self.dataset)
        total = int(opt['train']['total_iter'])
        self.stream = TrainStream(self.images, self.batch, opt['manual_seed'], start, total, ranks)
        self.train = train_loader(self.dataset, data, self.stream)
        self.val = eval_loaders(opt, ranks)


def _run(options: Options, model: SPTModel, loaders: _Loaders, boards: Boards, stop: _Stop, progress: bool) -> None:
    opt, ranks = options.opt, model.ranks
    total, start = loaders.stream.stop, loaders.stream.start
    freq, save_freq = opt['logger']['print_freq'], opt['logger']['save_checkpoint_freq']
    val_freq = opt['val'].get('val_freq') or total
    # BasicSR's ETA is that of one iteration less: the last line said "-1 day, 23:59:59"
    # And it writes no losses of a run that has `debug` in its name: they are written below.
    quiet = {'logger': {**opt['logger'], 'use_tb_logger': False}, 'train': {**opt['train'], 'total_iter': total + 1}}
    messages = MessageLogger({**opt, **quiet}, start + 1)
    data_timer, iter_timer = AvgTimer(), AvgTimer()
    iteration = start
    shown = bar(total, opt['name'], 'step', start, disable=not progress)
    for _ in _until_stopped(loaders.train, model, stop):
        data_timer.record()
        iteration += 1
        _seed_step(opt['manual_seed'], ranks.rank, iteration)
        model.update_learning_rate(iteration)
        model.optimize_parameters(iteration)
        iter_timer.record()
        if progress:
            _show(shown, model, iter_timer, data_timer, loaders.batch * ranks.world)
        if iteration == start + 1:
            messages.reset_start_time()
        if iteration % freq == 0 or iteration == total:
            record = {
                'epoch': loaders.stream.epoch(iteration),
                'iter': iteration,
                'lrs': model.get_current_learning_rate(),
                'time': iter_timer.get_avg_time(),
                'data_time': data_timer.get_avg_time(),
            }
            losses = {name: ranks.mean(value) for name, value in model.get_current_log().items()}
            if ranks.first:
                messages({**record, **losses})
                boards.add_scalar('lr', record['lrs'][0], iteration)
                for name, value in losses.items():
                    boards.add_scalar(f'losses/{name}', value, iteration)
        if iteration % val_freq == 0 or iteration == total:
            for loader in loaders.val:
                model.validation(loader, iteration, boards, opt['val']['save_img'])
        if iteration % save_freq == 0 or iteration == total:
            _save(options, model, iteration)
        data_timer.start()
        iter_timer.start()
    shown.close()
    if iteration < total:
        if iteration > start:
            _save(options, model, iteration)
        logs.get().info('Stopped at iteration %d of %d; the same command goes on.', iteration, total)
        model.stopped_by = stop.asked or signal.SIGTERM  # of another rank
        return
    target = latest_file(Path(opt['path']['models']))
    with ranks.together():
        if ranks.first:
            model.save(-1, total, str(target))
    logs.get().info('Done: %d iterations. Adapter: %s', total, target)


_GO_ON, _STOP, _FAILED = range(3)


def _until_stopped(loader: Any, model: SPTModel, stop: _Stop) -> Iterator[None]:
    """Feeds batch after batch to the model until a signal asks any rank to stop, or an error of any rank ends all.

    All ranks stop after the same iteration.
    """
    batches = iter(loader)
    while True:
        wish, error = _GO_ON, None
        try:
            batch = None if stop.asked else next(batches, None)
            if batch is None:
                wish = _STOP
            else:
                model.feed_data(batch)
        except (ConnectionError, EOFError):
            wish, error = _FAILED, worker_killed()
        except Exception as caught:
            wish, error = _FAILED, caught
        if stop.asked:  # the signal may have reached the workers too, while one of them handed over a batch
            wish = _STOP
        wish = model.ranks.highest(wish)
        if wish == _FAILED:
            model.ranks.raise_together(error)
        if wish != _GO_ON:
            return
        yield


def _seed_step(seed: int, rank: int, iteration: int) -> None:
    """Seeds the random numbers of a step (of a unit with dropout, for example) from seed, rank and iteration."""
    digest = hashlib.blake2b(f'{seed} {rank} {iteration}'.encode(), digest_size=8).digest()
    torch.manual_seed(int.from_bytes(digest, 'little') >> 1)


def _show(shown: Any, model: SPTModel, iter_timer: AvgTimer, data_timer: AvgTimer, images: int) -> None:
    """Updates the live line; `images` is the number of images of a step, on all ranks."""
    if sys.stderr.isatty():  # elsewhere lines are as wide as the bar alone
        step, wait = iter_timer.get_current_time(), data_timer.get_current_time()
        losses = ', '.join(f'{name} {value:.4g}' for name, value in model.get_current_log().items())
        rate = model.get_current_learning_rate()[0]
        shown.set_postfix_str(
            f'{losses}, lr {rate:.2e}, {images / step:.1f} images/s, data {wait / step:.0%}', refresh=False
        )
    shown.update()


def _save(options: Options, model: SPTModel, iteration: int) -> None:
    """Writes the adapter, then the state that belongs to it; each file is complete or absent."""
    with model.ranks.together():
        if not model.ranks.first:
            return
        path = options.opt['path']
        model.save(-1, iteration)
        state = {**model.training_state(), 'iter': iteration, 'options_sha256': options.sha256}
        write_state(Path(path['training_states']) / f'{iteration}.state', state)
        keep_last = options.opt['logger']['keep_last']
        if keep_last:
            prune(Path(path['training_states']), Path(path['models']), keep_last, path.get('resume_state'))


def _log_start(
    logger: Logger, opt: dict[str, Any], model: SPTModel, loaders: _Loaders, state: dict[str, Any] | None
) -> None:
    counts = model.parameter_counts()
    logger.info(
        '%s: %d images, batch %s, %d iterations; tuning %s of %s parameters (%.2f %%) on %s',
        opt['name'],
        loaders.images,
        f'{loaders.batch} on each of {model.ranks.world} ranks' if model.ranks.world > 1 else loaders.batch,
        loaders.stream.stop,
        f'{counts["trainable"]:,}',
        f'{counts["total"]:,}',
        100 * counts['trainable'] / counts['total'],
        model.device,
    )
    model.log_adapter()
    network = opt['network_g']
    if network.get('backbone_weights') is None and network['backbone']['type'] != 'spandrel':
        logger.warning(
            'network_g.backbone_weights is not set: unless %s reads its weights itself, it is untrained',
            network['backbone']['type'],
        )
    if state:
        logger.info('Going on from iteration %d (%s)', state['iter'], state['path'])
        average = model.tuner.average
        if average is not None and average.untrained > UNTRAINED:
            logger.warning('%.1f %% of its moving average is the untrained adapter, and fades', 100 * average.untrained)
