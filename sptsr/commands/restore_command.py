"""`sptsr restore`: anyone's images, with an adapter."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sptsr.commands.adapter_arguments import add_adapter_arguments, import_parts
from sptsr.commands.restore_masks import masks_of
from sptsr.core.errors import UserError
from sptsr.core.homes import expanded

if TYPE_CHECKING:
    from sptsr.archs.spt_arch import SPTNet
    from sptsr.images.decode import RGB
    from sptsr.masks.prior import Prior

_EXAMPLES = """\
examples:
  sptsr restore -i photo.jpg -o restored -a adapter.safetensors
  sptsr restore -i photos -o restored -a adapter.safetensors --weights weights/IMDN_x4.pth --prior priors
  sptsr restore -i noisy -o clean -opt options/test/SPT_FFDNet_s25.yml --source felzenszwalb --sigma auto
  sptsr restore -i photos -o frozen -opt options/test/IMDN_x4.yml
"""


def add_restore(commands: Any) -> None:
    """Adds `restore`."""
    command = commands.add_parser(
        'restore',
        help='restore images of your own with an adapter, or with a network as it is',
        description='Restores a file or the images of a folder: any mode and depth, gray, alpha, EXIF orientation. The '
        'same command goes on after a kill; an image that fails is named, and the others are done (exit code 1).',
        epilog=_EXAMPLES,
    )
    command.add_argument('-i', '--input', required=True, metavar='PATH', help='an image, or a folder of images')
    command.add_argument('-o', '--out', required=True, metavar='DIR', help='folder of the results')
    network = command.add_mutually_exclusive_group(required=True)
    network.add_argument('-a', '--adapter', metavar='FILE', help='the adapter; it says which network it is for')
    network.add_argument(
        '-opt', metavar='X.yml', help='take network and adapter from an option file of a test, or a network alone'
    )
    add_adapter_arguments(command)
    masks = command.add_mutually_exclusive_group()
    masks.add_argument('--source', metavar='NAME', help='make the masks on the way by this source')
    masks.add_argument('--prior', metavar='STORE', help='take the masks from a prior store of these images')
    command.add_argument(
        '--through', metavar='X.yml', help='make them from what the network of this option file makes of the images'
    )
    command.add_argument('--set', nargs='+', default=[], metavar='k=v', dest='params', help='parameters of the source')
    command.add_argument('--sigma', metavar='N', help='noise level of 255 for denoisers, or auto to estimate it')
    command.add_argument('--tile', type=int, metavar='N', help='side of a tile in pixels; 0: whole; default: what fits')
    command.add_argument('--self-ensemble', action='store_true', help='average over 8 flips and rotations')
    command.add_argument(
        '--precision',
        choices=('fp32', 'bf16', 'fp16'),
        default='fp32',
        help='of the network, its ends excepted; fp16 needs a GPU; default: %(default)s',
    )
    command.add_argument('--suffix', default='', metavar='S', help='appended to the names of the results')
    command.add_argument('--format', choices=('png', 'jpg', 'webp', 'tif'), default='png', help='default: %(default)s')
    command.add_argument('--report', action='store_true', help='write DIR/report.html: results beside the frozen ones')
    command.set_defaults(run=_restore)


def _restore(options: argparse.Namespace) -> int:
    import torch

    from sptsr.core.allocator import keep_freed_memory
    from sptsr.core.files import sha256_file, sha256_tensors
    from sptsr.core.plugin_files import plugin_modules
    from sptsr.report.page import FROZEN, TUNED, Page, Picture
    from sptsr.report.page_file import is_page
    from sptsr.restoring.folder_run import SUFFIXES, How, find_images, restore_all
    from sptsr.restoring.through import portable

    given, out = Path(options.input), Path(options.out)
    if out.exists() and not out.is_dir():
        raise UserError(f'{out}: is a file; name a folder with -o')
    if out.suffix.lower() in SUFFIXES and not out.exists():  # a folder of that name is not what was meant
        raise UserError(f'{out}: names an image, and results go into a folder; say -o {out.with_suffix("")}')
    images = find_images(given, out)
    report = out / 'report.html'
    if options.report and report.exists() and not is_page(report):
        raise UserError(f'{report}: is there, and not made by sptsr; move it, or choose another folder with -o')
    if '/' in options.suffix or '\0' in options.suffix:
        raise UserError(f'--suffix {options.suffix!a}: stands in the name of a file; leave out /')
    if options.prior and (options.params or options.through):
        raise UserError('--prior: takes masks that are made; --set and --through are for a source, so remove them')
    if options.tile is not None and options.tile < 0:
        raise UserError(f'--tile {options.tile}: must be 0 (whole) or above')
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    if options.precision == 'fp16' and device == 'cpu':
        raise UserError('--precision fp16: needs a CUDA GPU, and none is here; say bf16 or leave it out')
    keep_freed_memory()
    net = _network(options).merge()
    net.to(device)
    sigma = _sigma(options.sigma, net, net.trained_with.get('sigma'))
    masks = masks_of(options, net, images, sigma)
    how = How(options.tile, options.self_ensemble, sigma, options.precision, options.suffix, options.format)
    plugin_files = filter(None, (getattr(module, '__file__', None) for module in plugin_modules()))
    settings = {
        'adapter': sha256_tensors(net.adapter_state()),
        'backbone': net.backbone_digest(),
        'network': {key: portable(net.options.get(key) or {}) for key in ('backbone', 'unit')},
        'sites': [site.path for site in net.sites],
        'rules': net.rules,
        'plugins': sorted(sha256_file(file) for file in plugin_files),
        'masks': masks.described,
        'self_ensemble': options.self_ensemble,
        'sigma': sigma,
        'precision': options.precision,
    }
    if options.tile is not None:  # else chosen by the memory
        settings['tile'] = options.tile
    page = Page(f'{given.name}, restored', TUNED, FROZEN, sets={'': len(images)})

    def show(name: str, lq: RGB, prior: Prior | None, tuned: RGB, frozen: RGB) -> None:
        page.add(Picture(name, {FROZEN: frozen, TUNED: tuned}, lq, prior=prior))

    on_image = show if options.report else None
    outcome = restore_all(net, images, out, how, masks.make, settings, on_image, masks.digest)
    for line in outcome.notes:
        print(line)
    for line in outcome.faults:
        print(f'sptsr: {line}', file=sys.stderr)
    done = f'{out}: {outcome.made} image{"" if outcome.made == 1 else "s"} restored'
    print(done + (f', {outcome.kept} were there' if outcome.kept else ''))
    if options.report and outcome.made + outcome.kept:
        page.write(report)
    return 1 if outcome.faults else 0


def _network(options: argparse.Namespace) -> SPTNet:
    """Returns the network with its units, or that of an option file without an SPTNet as it is."""
    from sptsr.archs.adapter import load_adapter
    from sptsr.archs.attach import load

    import_parts(options.plugins)
    if options.adapter:
        return load(options.adapter, weights=options.weights)
    from sptsr.archs.spt_arch import SPTNet
    from sptsr.options.load import load_frozen, read_checked

    opt = expanded(read_checked(options.opt, False, files=False)[0])
    section, adapter = opt['network_g'], (opt.get('path') or {}).get('pretrain_network_g')
    if section['type'] != 'SPTNet':
        if options.report:
            raise UserError(f'--report: shows what an adapter changes, and {options.opt} has none; remove it')
        return SPTNet(*load_frozen(options.opt, options.weights), tune='all').eval()
    if not adapter:
        raise UserError(f'{options.opt}: needs path.pretrain_network_g; or name the adapter with -a')
    weights = options.weights or section.get('backbone_weights')
    net = load(adapter, backbone=section['backbone'], weights=weights)
    if opt['path'].get('param_key_g'):
        load_adapter(net, adapter, opt['path']['param_key_g'])
    return net


def _sigma(said: str | None, net: SPTNet, trained: object) -> float | str | None:
    """Returns the noise level that was said, else that of the training; None where the network takes none."""
    from sptsr.archs.call import takes_sigma

    if not takes_sigma(net.backbone):
        if said is not None:
            raise UserError('--sigma: this network takes no noise level; remove it')
        return None
    if said is None and isinstance(trained, int | float) and 0 <= trained <= 255:  # a set of one's own may say another
        return float(trained)
    if said is None:
        raise UserError('restore: this network takes a noise level; say --sigma N (of 255), or --sigma auto')
    if said == 'auto':
        return said
    try:
        level = float(said)
    except ValueError:
        level = -1.0
    if not 0 <= level <= 255:
        raise UserError(f'--sigma {said}: must be a number in 0..255, or auto')
    return level
