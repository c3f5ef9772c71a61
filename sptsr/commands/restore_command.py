"""`sptsr restore`: anyone's images, with an adapter."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sptsr.core.errors import UserError
from sptsr.core.homes import expanded

if TYPE_CHECKING:
    from sptsr.archs.spt_arch import SPTNet
    from sptsr.images.decode import RGB
    from sptsr.masks.prior import Prior
    from sptsr.priors.sources.source import Source
    from sptsr.restoring.folder_run import Masks

# Sources that look something up for each image, so they know nothing of other images.
_NEED_FILES = ('labels', 'random')
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
    command.add_argument('--weights', metavar='FILE', help="the backbone's weights, where they moved")
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

    from sptsr.core.files import sha256_tensors
    from sptsr.report.page import FROZEN, TUNED, Page, Picture
    from sptsr.report.page_file import is_page
    from sptsr.restoring.folder_run import How, find_images, restore_all

    given, out = Path(options.input), Path(options.out)
    if out.exists() and not out.is_dir():
        raise UserError(f'{out}: is a file; name a folder with -o')
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
    net = _network(options).merge()
    net.to(device)
    sigma = _sigma(options.sigma, net, net.trained_with.get('sigma'))
    masks, described = _masks(options, net, list(images), sigma)
    how = How(options.tile, options.self_ensemble, sigma, options.precision, options.suffix, options.format)
    settings = {
        'adapter': sha256_tensors(net.adapter_state()),
        'backbone': net.backbone_digest(),
        'masks': described,
        'self_ensemble': options.self_ensemble,
        'sigma': sigma,
        'precision': options.precision,
    }
    if options.tile is not None:  # else chosen by the memory
        settings['tile'] = options.tile
    page = Page(f'{given.name}, restored', TUNED, FROZEN, sets={'': len(images)})

    def show(name: str, lq: RGB, prior: Prior | None, tuned: RGB, frozen: RGB) -> None:
        page.add(Picture(name, {FROZEN: frozen, TUNED: tuned}, lq, prior=prior))

    outcome = restore_all(net, images, out, how, masks, settings, show if options.report else None)
    if options.report and outcome.made + outcome.kept:
        page.write(report)
    for line in outcome.notes:
        print(line.encode(errors='backslashreplace').decode())  # names need not be UTF-8
    for line in outcome.faults:
        print(f'sptsr: {line}', file=sys.stderr)
    done = f'{out}: {outcome.made} images restored'
    print(done + (f', {outcome.kept} were there' if outcome.kept else ''))
    return 1 if outcome.faults else 0


def _network(options: argparse.Namespace) -> SPTNet:
    """Returns the network with its units, or that of an option file without an SPTNet as it is."""
    from sptsr.archs.adapter import load_adapter
    from sptsr.archs.attach import load

    if options.adapter:
        return load(options.adapter, weights=options.weights)
    from sptsr.archs.spt_arch import SPTNet
    from sptsr.core.registry import register_all
    from sptsr.options.load import load_frozen, read_checked

    opt = expanded(read_checked(options.opt, False, files=False)[0])
    section, adapter = opt['network_g'], (opt.get('path') or {}).get('pretrain_network_g')
    if section['type'] != 'SPTNet':
        if options.report:
            raise UserError(f'--report: shows what an adapter changes, and {options.opt} has none; remove it')
        register_all()
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
    if said is None and isinstance(trained, int | float):
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


def _masks(
    options: argparse.Namespace, net: SPTNet, names: list[str], sigma: float | str | None
) -> tuple[Masks | None, Any]:
    """Returns what gives the masks of an image, and what decides them."""
    if not net.uses_masks:
        if options.source or options.prior:
            print('sptsr: this network uses no masks; --source and --prior play no part', file=sys.stderr)
        return None, None
    if options.prior:
        from sptsr.data.checked import must_hold
        from sptsr.images.folder import image_key
        from sptsr.priors.store import PriorStore

        store = PriorStore(options.prior)
        must_hold(store, map(image_key, names))
        return (lambda image, key: store.get(key, image)), dataclasses.asdict(store.header)
    from sptsr.core.yaml_io import read_settings
    from sptsr.priors.extract import make_source

    source = make_source(*_chosen_source(options, net.trained_with, read_settings(options.params, '--set')), '--set')
    known = net.trained_with.get('prior') or {}
    record = (known.get('params') or {}).get('through')
    if options.through or (source.sees_image and record):
        fine = (known.get('params') or {}).get('fine')
        source = _through(options.through, record, source, net, sigma, fine if isinstance(fine, int) else 1)
    described = {'source': source.name, 'params': source.params, 'weights': source.weights_sha256}
    before = {'source': known.get('source'), 'params': known.get('params'), 'weights': known.get('weights_sha256')}
    if known and before != described:
        print(
            f'sptsr: the adapter was trained with masks of {_shown(before)}, and these are of {_shown(described)}',
            file=sys.stderr,
        )

    def masks(image: RGB, key: str) -> Prior:
        source.must_fit(image, key)
        return source(image, key, net.num_masks)

    return masks, described


def _through(
    file: str | None, record: object, source: Source, net: SPTNet, sigma: float | str | None, fine: int
) -> Source:
    """Returns a source that looks at what the frozen network makes of an image.

    Args:
        file: option file of that network; None for the adapter's own backbone, where `record` says that it was that.
        record: what the adapter's store says of the network.
        source: makes the masks.
        net: the network with its units.
        sigma: noise level of 255, `auto`, or None.
        fine: of the adapter's store.
    """
    from sptsr.restoring.folder_run import estimated_sigma
    from sptsr.restoring.through import Frozen, Through

    frozen = Frozen.of_options(file) if file else Frozen.of_adapter(net, record)
    if frozen is None:
        raise UserError(
            'restore: this adapter was trained with masks of what another network made of the images; '
            'say --through X.yml with its option file, or --prior STORE'
        )
    if sigma is None:
        return Through(source, frozen, fine=fine)
    return Through(
        source, frozen, lambda _, image: estimated_sigma(image, 255) if sigma == 'auto' else float(sigma), fine
    )


def _chosen_source(
    options: argparse.Namespace, trained_with: Mapping[str, Any], said: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Returns name and arguments of the source that was named, else of the one that the adapter was trained with."""
    known = trained_with.get('prior') or {}
    name, params = known.get('source'), known.get('params')
    if options.source and options.source.rpartition(':')[2] != name:
        return options.source, dict(said)
    # A file of code is named by the user, never by an adapter.
    if not isinstance(name, str) or not isinstance(params, dict) or name in _NEED_FILES or ':' in name:
        if options.source:
            return options.source, dict(said)
        why = f'it was trained with masks of {name}' if isinstance(name, str) else 'it does not say of which source'
        raise UserError(f'restore: this adapter uses masks, and {why}; say --source NAME, or --prior STORE')
    from sptsr.core.registry import SOURCE_REGISTRY, import_named, lookup
    from sptsr.core.signatures import parameters

    given = options.source or name  # or the file that registers it
    import_named(given)
    taken = parameters(lookup(SOURCE_REGISTRY, name))
    return given, {key: value for key, value in params.items() if key in taken} | dict(said)


def _shown(described: Mapping[str, Any]) -> str:
    from sptsr.priors.describe import shown_params

    return f'{described["source"]} ({shown_params(described["params"] or {})})'
