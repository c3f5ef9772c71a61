"""The tuning pipeline: `sptsr train -opt X.yml`, also `python -m sptsr.train -opt X.yml`."""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from basicsr.data import build_dataset
from basicsr.models import build_model
from basicsr.utils import AvgTimer, MessageLogger, get_time_str, set_random_seed

from sptsr import logs
from sptsr.data.loader import TrainStream, eval_loader, train_loader, unwrapped
from sptsr.errors import UserError
from sptsr.files import remove_temporaries, write_atomic, write_text
from sptsr.models.spt_model import SPTModel
from sptsr.options import Options, load_options
from sptsr.progress import bar


class _Stop:
    """Turns SIGINT and SIGTERM into a wish that the loop asks for; a second one is obeyed at once."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> _Stop:
        self.before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        logs.get().info('%s: finishing this step and saving', signal.Signals(number).name)


def train_pipeline(
    path: str | os.PathLike[str],
    root: str | os.PathLike[str] = '.',
    auto_resume: bool = False,
    fresh: bool = False,
    force: Sequence[str] = (),
    progress: bool = False,
) -> SPTModel:
    """Tunes an adapter as an option file says; a run that was cut off goes on.

    The newest whole training state of `experiments/<name>` is taken up when the options are the
    ones it was made with, or with `auto_resume` whatever they are. A finished run, or one of other
    options, is put aside as `<name>_archived_<time>`, as BasicSR does.

    Args:
        path: the option file.
        root: where `experiments/` and `tb_logger/` go.
        auto_resume: go on also when the options changed (a longer `total_iter`, say).
        fresh: put an unfinished run aside as well.
        force: `--force_yml` entries.
        progress: show a bar; log lines then go to the log file only.

    Returns:
        the model after its last iteration.

    Raises:
        UserError: any mistake in options, data, weights or state, before a folder is made.
    """
    if int(os.environ.get('WORLD_SIZE', '1')) > 1:
        raise UserError(
            'train: several processes were started, and this version trains in one; start it without torchrun'
        )
    options = load_options(path, True, root, force)
    opt = options.opt
    set_random_seed(opt['manual_seed'])
    home = Path(opt['path']['experiments_root'])
    state = None if fresh else _find_state(opt, home, options.sha256, auto_resume)
    loaders = _Loaders(opt, state['iter'] if state else 0)
    model: Any = build_model(opt)
    if not isinstance(model, SPTModel):
        raise UserError(f'model_type: {opt["model_type"]}: this command trains an SPTModel; use BasicSR for others')
    if state:
        model.resume_training(state)
    elif any((home / 'models').glob('*.safetensors')):
        home.rename(f'{home}_archived_{get_time_str()}')
        boards = Path(root) / 'tb_logger' / opt['name']
        if boards.exists():
            boards.rename(f'{boards}_archived_{get_time_str()}')
    _prepare_folders(options, home)
    _log_start(options, model, loaders, state, quiet=progress)
    board = _tensorboard(opt, root)
    try:
        with _Stop() as stop:
            _run(options, model, loaders, board, stop, progress)
    except UserError as error:
        raise unwrapped(error) from error
    finally:
        if board is not None:
            board.close()
    return model


class _Loaders:
    """The training stream and the validation sets of an option file."""

    def __init__(self, opt: dict[str, Any], start: int) -> None:
        self.val = []
        for phase, data in opt['datasets'].items():
            if phase == 'train':
                self.batch = int(data['batch_size_per_gpu'])
                dataset = build_dataset(data)
                self.images = len(dataset)
                self.stream = TrainStream(
                    self.images, self.batch, opt['manual_seed'], start, int(opt['train']['total_iter'])
                )
                self.train = train_loader(dataset, data, self.stream)
            else:
                self.val.append(eval_loader(build_dataset(data)))


def _run(options: Options, model: SPTModel, loaders: _Loaders, board: Any, stop: _Stop, progress: bool) -> None:
    opt = options.opt
    total, start = loaders.stream.stop, loaders.stream.start
    freq, save_freq = opt['logger']['print_freq'], opt['logger']['save_checkpoint_freq']
    val_freq = opt['val'].get('val_freq') or total
    messages = MessageLogger(opt, start + 1, board)
    data_timer, iter_timer = AvgTimer(), AvgTimer()
    iteration = start
    shown = bar(total, opt['name'], 'step', start, disable=not progress)
    for batch in _until_stopped(loaders.train, stop):
        data_timer.record()
        iteration += 1
        model.update_learning_rate(iteration, warmup_iter=opt['train']['warmup_iter'])
        model.feed_data(batch)
        model.optimize_parameters(iteration)
        iter_timer.record()
        shown.update()
        if iteration == start + 1:
            messages.reset_start_time()
        if iteration % freq == 0 or iteration == total:
            messages(
                {
                    'epoch': loaders.stream.epoch(iteration),
                    'iter': iteration,
                    'lrs': model.get_current_learning_rate(),
                    'time': iter_timer.get_avg_time(),
                    'data_time': data_timer.get_avg_time(),
                    **model.get_current_log(),
                }
            )
            if not math.isfinite(model.get_current_log()['l_pix']):
                raise UserError(f'iteration {iteration}: the loss is not finite; lower the learning rate')
        validate = iteration % val_freq == 0 or iteration == total
        if validate:
            for loader in loaders.val:
                model.validation(loader, iteration, board, opt['val']['save_img'])
        if iteration % save_freq == 0 or iteration == total:
            _save(options, model, iteration)
        data_timer.start()
        iter_timer.start()
    shown.close()
    if iteration < total:
        if iteration > start:
            _save(options, model, iteration)
        logs.get().info('Stopped at iteration %d of %d; the same command goes on.', iteration, total)
        return
    model.save(-1, total, str(Path(opt['path']['models']) / 'net_g_latest.safetensors'))
    logs.get().info('Done: %d iterations. Adapter: %s', total, Path(opt['path']['models']) / 'net_g_latest.safetensors')


def _until_stopped(loader: Any, stop: _Stop) -> Iterator[Any]:
    """Yields batches until a signal asks to stop."""
    batches = iter(loader)
    while not stop.asked:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (RuntimeError, OSError, EOFError):
            if stop.asked:  # the signal reached the workers too, perhaps while one handed over a batch
                return
            raise
        if not stop.asked:
            yield batch


def _save(options: Options, model: SPTModel, iteration: int) -> None:
    """Writes the adapter, then the state that refers to it; each is whole or not there."""
    model.save(-1, iteration)
    state = {**model.training_state(), 'iter': iteration, 'options_sha256': options.sha256}
    target = Path(options.opt['path']['training_states']) / f'{iteration}.state'
    write_atomic(target, lambda temporary: torch.save(state, temporary))


def _find_state(opt: dict[str, Any], home: Path, sha256: str, auto_resume: bool) -> dict[str, Any] | None:
    """Returns the newest whole state to go on from; None starts anew."""
    named = opt['path'].get('resume_state')
    if named:
        return _read_state(Path(named))
    folder = home / 'training_states'
    found = sorted(folder.glob('*.state'), key=lambda p: int(p.stem) if p.stem.isdigit() else -1, reverse=True)
    for path in found:
        try:
            state = _read_state(path)
        except UserError as error:
            print(f'sptsr: skipping a damaged state: {error}', file=sys.stderr)
            continue
        same = state['options_sha256'] == sha256
        unfinished = state['iter'] < int(opt['train']['total_iter'])
        if (same or auto_resume) and (unfinished or auto_resume):
            return state
        return None
    return None


def _read_state(path: Path) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location='cpu', weights_only=True)
        if not {'iter', 'options_sha256', 'params'} <= state.keys():
            raise ValueError('not a state of sptsr')
    except Exception as error:  # torch raises many kinds for a truncated or foreign file
        raise UserError(f'{path}: not a readable training state ({type(error).__name__}); use an older one') from error
    return {**state, 'path': str(path)}


def _prepare_folders(options: Options, home: Path) -> None:
    for folder in ('models', 'training_states'):
        (home / folder).mkdir(parents=True, exist_ok=True)
        remove_temporaries(home / folder)
    command = f'# {time.strftime("%Y-%m-%d %H:%M:%S")}: {" ".join(sys.argv)}\n'
    write_text(home / Path(options.path).name, command + yaml.safe_dump(options.given, sort_keys=False))


def _log_start(options: Options, model: SPTModel, loaders: _Loaders, state: dict[str, Any] | None, quiet: bool) -> None:
    opt = options.opt
    logger = logs.setup(Path(opt['path']['log']) / f'train_{opt["name"]}_{get_time_str()}.log', quiet)
    counts = model.parameter_counts()
    logger.info(
        '%s: %d images, batch %d, %d iterations; tuning %s of %s parameters (%.2f %%) on %s',
        opt['name'],
        loaders.images,
        loaders.batch,
        loaders.stream.stop,
        f'{counts["trainable"]:,}',
        f'{counts["total"]:,}',
        100 * counts['trainable'] / counts['total'],
        model.device,
    )
    if state:
        logger.info('Going on from iteration %d (%s)', state['iter'], state['path'])


def _tensorboard(opt: dict[str, Any], root: str | os.PathLike[str]) -> Any:
    if not opt['logger']['use_tb_logger']:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(Path(root) / 'tb_logger' / opt['name']))


if __name__ == '__main__':
    from sptsr.cli import main

    raise SystemExit(main(['train', *sys.argv[1:]]))
