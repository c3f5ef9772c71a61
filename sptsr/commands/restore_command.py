"""`sptsr restore`: anyone's images, with an adapter."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sptsr.core.errors import UserError

if TYPE_CHECKING:
    from sptsr.archs.spt_arch import SPTNet
    from sptsr.restoring.folder_run import Masks

_EXAMPLES = """\
examples:
  sptsr restore -i photo.jpg -o restored -a adapter.safetensors --source felzenszwalb
  sptsr restore -i photos -o restored -a adapter.safetensors --weights weights/IMDN_x4.pth --prior priors
  sptsr restore -i noisy -o clean -opt options/test/SPT_FFDNet_s25.yml --source felzenszwalb --sigma auto
"""


def add_restore(commands: Any) -> None:
    """Adds `restore`."""
    command = commands.add_parser(
        'restore',
        help='restore images of your own with an adapter',
        description='Restores a file or the images of a folder: any mode and depth, gray, alpha, EXIF orientation. The '
        'same command goes on after a kill; an image that fails is named, and the others are done (exit code 1).',
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument('-i', '--input', required=True, metavar='PATH', help='an image, or a folder of images')
    command.add_argument('-o', '--out', required=True, metavar='DIR', help='folder of the results')
    network = command.add_mutually_exclusive_group(required=True)
    network.add_argument('-a', '--adapter', metavar='FILE', help='the adapter; it says which network it is for')
    network.add_argument('-opt', metavar='X.yml', help='take network and adapter from an option file of a test')
    command.add_argument('--weights', metavar='FILE', help="the backbone's weights, where they moved")
    masks = command.add_mutually_exclusive_group()
    masks.add_argument('--source', metavar='NAME', help='make the masks on the way by this source')
    masks.add_argument('--prior', metavar='STORE', help='take the masks from a prior store of these images')
    command.add_argument('--set', nargs='+', default=[], metavar='k=v', dest='params', help='parameters of the source')
    command.add_argument('--sigma', metavar='N', help='noise level of 255 for denoisers, or auto to estimate it')
    command.add_argument('--tile', type=int, metavar='N', help='side of a tile in pixels; 0: whole; default: what fits')
    command.add_argument('--self-ensemble', action='store_true', help='average over 8 flips and rotations')
    command.add_argument('--suffix', default='', metavar='S', help='appended to the names of the results')
    command.add_argument('--format', choices=('png', 'jpg', 'webp', 'tif'), default='png', help='default: %(default)s')
    command.set_defaults(run=_restore)


def _restore(options: argparse.Namespace) -> int:
    import torch

    from sptsr.core.files import sha256_tensors
    from sptsr.restoring.folder_run import How, find_images, restore_all

    given, out = Path(options.input).expanduser(), Path(options.out).expanduser()
    if out.exists() and not out.is_dir():
        raise UserError(f'{out}: is a file; name a folder with -o')
    images = find_images(given, out)
    if options.tile is not None and options.tile < 0:
        raise UserError(f'--tile {options.tile}: must be 0 (whole) or above')
    net = _network(options).to('cuda' if torch.cuda.is_available() else 'cpu')
    sigma = _sigma(options.sigma, net)
    masks, described = _masks(options, net)
    how = How(options.tile, options.self_ensemble, sigma, options.suffix, options.format)
    settings = {
        'adapter': sha256_tensors(net.adapter_state()),
        'backbone': net.backbone_digest(),
        'masks': described,
        'self_ensemble': options.self_ensemble,
        'sigma': sigma,
    }
    outcome = restore_all(net, images, out, how, masks, settings)
    for line in outcome.notes:
        print(line)
    for line in outcome.faults:
        print(f'sptsr: {line}', file=sys.stderr)
    done = f'{out}: {outcome.made} images restored'
    print(done + (f', {outcome.kept} were there' if outcome.kept else ''))
    return 1 if outcome.faults else 0


def _network(options: argparse.Namespace) -> SPTNet:
    from sptsr.archs.attach import load

    if options.adapter:
        return load(options.adapter, weights=options.weights)
    from sptsr.options.load import load_options

    opt = load_options(options.opt, False).opt
    adapter = opt['path'].get('pretrain_network_g')
    if opt['network_g']['type'] != 'SPTNet' or not adapter:
        raise UserError(f'{options.opt}: network_g is no SPTNet with path.pretrain_network_g; name the adapter with -a')
    section = opt['network_g']
    weights = options.weights or section.get('backbone_weights')
    return load(adapter, backbone=section['backbone'], weights=weights)


def _sigma(said: str | None, net: SPTNet) -> float | str | None:
    from sptsr.archs.call import takes_sigma

    if not takes_sigma(net.backbone):
        if said is not None:
            raise UserError('--sigma: this network takes no noise level; remove it')
        return None
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


def _masks(options: argparse.Namespace, net: SPTNet) -> tuple[Masks | None, Any]:
    """Returns what gives the masks of an image, and what decides them."""
    if not net.uses_masks:
        if options.source or options.prior:
            print('sptsr: this adapter uses no masks; --source and --prior play no part', file=sys.stderr)
        return None, None
    if options.prior:
        from sptsr.priors.store import PriorStore

        store = PriorStore(options.prior)
        return (lambda image, key: store.get(key, image)), dataclasses.asdict(store.header)
    if not options.source:
        raise UserError('restore: this adapter uses masks; say --source NAME (such as felzenszwalb), or --prior STORE')
    from sptsr.core.yaml_io import read_settings
    from sptsr.priors.extract import make_source

    source = make_source(options.source, read_settings(options.params, '--set'), '--set')
    described = {'source': options.source, 'params': source.params, 'weights': source.weights_sha256}
    return (lambda image, key: source(image, key, net.num_masks)), described
