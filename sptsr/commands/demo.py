"""`sptsr demo`: the whole line on embedded photographs, with the commands a real run uses."""

from __future__ import annotations

import os
import shlex
import shutil
import time
from pathlib import Path
from typing import Any

import yaml

from sptsr.commands.demo_data import SCALE, TEST, make_sets
from sptsr.core.errors import UserError
from sptsr.core.files import write_text
from sptsr.evaluation.records import Results
from sptsr.images.decode import write_png
from sptsr.images.folder import ImageFolder
from sptsr.priors.extract import build_source, extract
from sptsr.priors.store import PriorStore
from sptsr.report.pictures import mask_overlay, side_by_side, stack
from sptsr.tuning.adapter_files import latest_file

NETWORK = {'type': 'IMDN', 'nf': 32, 'num_modules': 4, 'upscale': SCALE}
WEIGHTS = Path(__file__).parents[1] / 'assets' / 'demo_imdn_x4.safetensors'
ARMS = ('PlainUnit', 'ModulationUnit')

_TUNING_SECONDS = 150.0  # for both arms together; the promise is 3 minutes
_MOST_ITERATIONS = 600
_CROPS = {'chelsea': (92, 140), 'coffee': (150, 260), 'rocket': (180, 270)}  # top, left of a GT window worth seeing
_CROP = 128

_INTRO = """\
Embedded: photographs that scikit-image ships, masks by felzenszwalb's segmentation (no weights),
and a small IMDN x4 whose pretrained weights come with sptsr. A real run brings its own images,
a pretrained network and a SAM checkpoint; README.md has it."""


def run_demo(out: str | os.PathLike[str], iterations: int = 0) -> dict[str, Results]:
    """Extracts priors, tunes two arms, evaluates three, and writes a table and pictures.

    Args:
        out: folder; results of an earlier demo are used again or replaced.
        iterations: tuning steps of each arm; 0 measures how many fit into three minutes.

    Returns:
        results on the test photographs by arm: `frozen`, `PlainUnit`, `ModulationUnit`.
    """
    from sptsr.core import logs
    from sptsr.tuning.testing import test_pipeline
    from sptsr.tuning.training import train_pipeline

    out = Path(out)
    if out.is_file():
        raise UserError(f'{out}: is a file; name a folder with -o')
    print(_INTRO)
    print(f'\n1/4  Photographs and priors in {out / "data"}')
    make_sets(out / 'data')
    for split in ('train', 'test'):
        images = ImageFolder(out / 'data' / split / f'LRx{SCALE}')
        extract(images, out / 'data' / split / 'prior', build_source('felzenszwalb'))
    logs.setup(warnings_only=True)
    steps = iterations or _fitting_iterations(out)
    print(f'\n2/4  Tuning {len(ARMS)} adapters, {steps} iterations each')
    results = {}
    for arm in ARMS:
        path = _write_options(out, arm, steps, trains=True)
        shutil.rmtree(out / 'experiments' / f'demo_{arm}', ignore_errors=True)  # of an earlier demo
        train_pipeline(path, out, progress=True, quiet=True)
        if not _adapter(out, arm).is_file():  # a signal stopped it
            raise KeyboardInterrupt
    print(f'\n3/4  Evaluating on {len(TEST)} photographs that nothing was trained on')
    for arm in ('frozen', *ARMS):
        path = _write_options(out, arm, steps, trains=False)
        results[arm] = test_pipeline(path, out, quiet=True)['photographs']
    print(f'\n4/4  Pictures in {out}')
    _write_pictures(out, results)
    report = _report(results, steps)
    write_text(out / 'report.txt', report + '\n')
    print('\n' + report)
    print(f'\nPhotographs of your own:\n  {restore_command(out)}')
    return results


def restore_command(out: Path) -> str:
    """Returns the command that restores other photographs with the adapter of the demo."""
    return shlex.join(['sptsr', 'restore', '-i', 'PHOTOS', '-o', 'restored', '-a', str(_adapter(out, ARMS[-1]))])


def _adapter(out: Path, arm: str) -> Path:
    """Returns where the adapter of an arm is written at the end of its training."""
    return latest_file(out / 'experiments' / f'demo_{arm}' / 'models')


def _write_options(out: Path, arm: str, steps: int, trains: bool) -> Path:
    """Writes the option file of an arm, as a user would, and returns its path."""
    unit = 'PlainUnit' if arm == 'frozen' else arm
    name = f'demo_{arm}'
    data = out / 'data' / ('train' if trains else 'test')
    dataset = {
        'name': 'photographs',
        'type': 'PriorPairedImageDataset',
        'dataroot_gt': str(data / f'GTx{SCALE}'),
        'dataroot_lq': str(data / f'LRx{SCALE}'),
        'dataroot_prior': str(data / 'prior'),
    }
    options: dict[str, Any] = {
        'name': name,
        'model_type': 'SPTModel',
        'scale': SCALE,
        'num_gpu': 'auto',
        'manual_seed': 0,
        'datasets': {'train' if trains else 'test': dataset},
        'network_g': {
            'type': 'SPTNet',
            'backbone': NETWORK,
            'backbone_weights': str(WEIGHTS),
            'sites': 'auto',
            'unit': {'type': unit, 'width': 16},
            'num_masks': 64,
        },
    }
    if trains:
        dataset |= {'gt_size': 48 * SCALE, 'use_hflip': True, 'use_rot': True, 'batch_size_per_gpu': 8}
        options['train'] = {
            'total_iter': steps,
            'ema_decay': 0.99,
            'optim_g': {'type': 'Adam', 'lr': 1e-3},
            'scheduler': {'type': 'CosineAnnealingRestartLR', 'periods': [steps], 'eta_min': 1e-6},
            'pixel_opt': {'type': 'L1Loss'},
        }
        options['logger'] = {'print_freq': max(1, steps // 10), 'save_checkpoint_freq': steps}
    else:
        if arm != 'frozen':
            options['path'] = {'pretrain_network_g': str(_adapter(out, arm))}
        metric = {'crop_border': SCALE, 'test_y_channel': True}
        options['val'] = {
            'save_img': True,
            'pbar': False,
            'metrics': {'psnr': {'type': 'calculate_psnr', **metric}, 'ssim': {'type': 'calculate_ssim', **metric}},
        }
    path = out / 'options' / f'{"train" if trains else "test"}_{arm}.yml'
    write_text(path, yaml.safe_dump(options, sort_keys=False))
    return path


def _fitting_iterations(out: Path) -> int:
    """Measures a few tuning steps and returns how many of them fit into the time."""
    from basicsr.data import build_dataset
    from basicsr.models import build_model

    from sptsr.data.loader import TrainStream, train_loader
    from sptsr.options.load import load_options

    warm, timed = 2, 6
    opt = load_options(_write_options(out, ARMS[-1], warm + timed, trains=True), True, out).opt
    model: Any = build_model(opt)
    data = opt['datasets']['train']
    dataset = build_dataset(data)
    stream = TrainStream(len(dataset), data['batch_size_per_gpu'], 0, 0, warm + timed)
    start = 0.0
    for number, batch in enumerate(train_loader(dataset, data, stream)):
        if number == warm:
            start = time.perf_counter()
        model.feed_data(batch)
        model.optimize_parameters(number + 1)
    step = (time.perf_counter() - start) / timed
    return max(20, min(_MOST_ITERATIONS, int(_TUNING_SECONDS / len(ARMS) / step)))


def _write_pictures(out: Path, results: dict[str, Results]) -> None:
    """Writes `masks.png` (each test photograph and its masks) and `before_after.png`."""
    from sptsr.images.bicubic import imresize

    data = out / 'data' / 'test'
    lq, gt = ImageFolder(data / f'LRx{SCALE}'), ImageFolder(data / f'GTx{SCALE}')
    store = PriorStore(data / 'prior')
    masks, rows = [], []
    arms = ('frozen', ARMS[-1])
    restored = [ImageFolder(out / 'results' / f'demo_{arm}' / 'visualization' / 'photographs') for arm in arms]
    for key in lq.keys:
        image = lq.read(key)
        prior = store.get(key, image)
        plain = image.repeat(3, axis=0).repeat(3, axis=1)
        masks.append(side_by_side([(f'{key} (LQ)', plain), (f'{prior.count} masks', mask_overlay(image, prior, 3))]))
        top, left = _CROPS[key]
        panels = [('bicubic', imresize(image, SCALE))]
        for title, arm, folder in zip(('frozen', 'tuned'), arms, restored, strict=True):
            panels.append((f'{title}, {results[arm]["psnr"]["per_image"][key]:.2f} dB', folder.read(key)))
        windows = [
            (title, picture[top : top + _CROP, left : left + _CROP].repeat(2, axis=0).repeat(2, axis=1))
            for title, picture in [*panels, ('GT', gt.read(key))]
        ]
        rows.append(side_by_side(windows))
    write_png(out / 'masks.png', stack(masks))
    write_png(out / 'before_after.png', stack(rows))


def _report(results: dict[str, Results], steps: int) -> str:
    from sptsr.report.tables import text_table

    keys = list(results['frozen']['psnr']['per_image'])
    rows = [
        [
            arm,
            f'{record["psnr"]["mean"]:.3f}',
            f'{record["ssim"]["mean"]:.4f}',
            *(f'{record["psnr"]["per_image"][key]:.3f}' for key in keys),
        ]
        for arm, record in results.items()
    ]
    table = text_table(['arm', 'PSNR', 'SSIM', *keys], rows)
    plain, frozen, spt = (results[arm]['psnr']['mean'] for arm in ('PlainUnit', 'frozen', 'ModulationUnit'))
    return '\n'.join(
        [
            f'x{SCALE} super-resolution, PSNR in dB and SSIM on the Y channel, {steps} iterations, one seed',
            '',
            table,
            '',
            f'ModulationUnit: {spt - frozen:+.3f} dB over the frozen network, {spt - plain:+.3f} dB over PlainUnit,',
            'which has as many parameters and sees no masks; the latter is what masks gave. Three photographs',
            'and one seed prove nothing either way: that needs a benchmark set and several seeds.',
        ]
    )
