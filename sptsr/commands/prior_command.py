"""The command line of `sptsr prior`."""

from __future__ import annotations

import argparse

from sptsr.commands.reading import add_reading, images_of
from sptsr.core.errors import UserError

_MOST_ZOOM = 64


def add_prior(commands: argparse._SubParsersAction, parser_class: type[argparse.ArgumentParser]) -> None:
    """Adds `prior` and its commands."""
    prior = commands.add_parser('prior', help='extract and look at priors')
    verbs = prior.add_subparsers(title='commands', metavar='COMMAND', required=True, parser_class=parser_class)

    extract = verbs.add_parser(
        'extract',
        help='fill a prior store; run again to go on',
        epilog='sources: felzenszwalb (no weights), labels (--set dir=FOLDER), sam (--set checkpoint=FILE), '
        'transformers (--set model=FOLDER), random (--set like=STORE), none; docs/priors.md says more. '
        'On several GPUs or machines: torchrun --nproc_per_node N -m sptsr prior extract ...',
    )
    extract.add_argument('-i', '--images', required=True, metavar='DIR', help='LQ images, or a BasicSR .lmdb')
    extract.add_argument('-o', '--store', required=True, metavar='STORE', help='folder of the store')
    extract.add_argument(
        '--source',
        required=True,
        metavar='NAME',
        help='felzenszwalb, labels, sam, transformers, random, none, or path/to/file.py:NAME',
    )
    extract.add_argument('--set', nargs='+', default=[], metavar='k=v', dest='params', help='parameters of the source')
    extract.add_argument('--oracle', metavar='DIR', help='make the masks from these images (GT) of the same names')
    extract.add_argument(
        '--fine',
        type=int,
        choices=(1, 2, 3, 4),
        default=1,
        metavar='K',
        help='masks on a grid K times as fine as the images (2 to 4): of labels or SAM, or with --oracle or --through',
    )
    extract.add_argument(
        '--through',
        metavar='X.yml',
        help='make the masks from what the network of this option file, without units, makes of the images',
    )
    extract.add_argument(
        '--sigma',
        type=float,
        metavar='N',
        help='noise level, of 255, that the network of --through is told; default: what prior degrade --noise noted',
    )
    extract.add_argument('--max-masks', type=int, default=64, metavar='N', help='default: %(default)s')
    add_reading(extract)
    extract.set_defaults(run=_prior_extract)

    info = verbs.add_parser('info', help='header and statistics of a store')
    info.add_argument('store', metavar='STORE')
    info.set_defaults(run=_prior_info)

    verify = verbs.add_parser('verify', help='check a store against its images')
    verify.add_argument('store', metavar='STORE')
    verify.add_argument('-i', '--images', required=True, metavar='DIR')
    verify.add_argument('--sample', type=int, default=0, metavar='N', help='look at N images only; default: all')
    add_reading(verify)
    verify.set_defaults(run=_prior_verify)

    show = verbs.add_parser('show', help='picture of the masks of some images')
    show.add_argument('store', metavar='STORE')
    show.add_argument('keys', nargs='+', metavar='KEY', help='image names without suffix')
    show.add_argument('-i', '--images', required=True, metavar='DIR')
    show.add_argument('-o', '--out', default='results/priors', metavar='DIR', help='default: %(default)s')
    show.add_argument('--zoom', type=int, default=0, metavar='N', help='enlargement; default: to about 480 pixels')
    add_reading(show)
    show.set_defaults(run=_prior_show)

    _add_controls(verbs)


def _add_controls(verbs: argparse._SubParsersAction) -> None:
    degrade = verbs.add_parser('degrade', help='degraded images, to make priors from')
    degrade.add_argument('-i', '--images', required=True, metavar='DIR', help='clean images')
    degrade.add_argument('-o', '--out', required=True, metavar='DIR', help='folder for the degraded ones')
    kind = degrade.add_mutually_exclusive_group(required=True)
    kind.add_argument(
        '--noise', metavar='SIGMA', help='Gaussian noise, sigma of 255; LOW:HIGH gives each draw a level of its own'
    )
    kind.add_argument('--blur', metavar='SIGMA', help='Gaussian blur, sigma in pixels')
    kind.add_argument('--jpeg', metavar='QUALITY', help='JPEG of this quality, 1..100')
    kind.add_argument('--downsample', metavar='N', help="MATLAB's bicubic by a whole factor")
    kind.add_argument(
        '--steps',
        nargs='+',
        metavar='STEP',
        help='several in this order, each KIND=AMOUNT or KIND=LOW:HIGH, such as blur=0.8:1.6 noise=5:25 jpeg=30:80; '
        'kinds: blur, resize, downsample, noise, poisson, jpeg (docs/priors.md)',
    )
    degrade.add_argument('--seed', type=int, default=0, metavar='N', help='noise_seed of the dataset; default: 0')
    degrade.add_argument(
        '--draws',
        type=int,
        default=1,
        metavar='K',
        help='of --noise and --steps: degraded images of each clean one, KEY@0, KEY@1, ...',
    )
    degrade.add_argument(
        '--gray', action='store_true', help='of --noise and --steps: degrade the luminance, for gray: true'
    )
    add_reading(degrade)
    degrade.set_defaults(run=_prior_degrade)

    shuffle = verbs.add_parser('shuffle', help='a store in which each image has the prior of another')
    shuffle.add_argument('store', metavar='STORE')
    shuffle.add_argument('-o', '--out', required=True, metavar='STORE')
    shuffle.add_argument('--seed', type=int, default=0, metavar='N')
    shuffle.set_defaults(run=_prior_shuffle)

    compare = verbs.add_parser('compare', help='how alike two stores are')
    compare.add_argument('reference', metavar='REFERENCE', help='store that is held for right')
    compare.add_argument('others', nargs='+', metavar='STORE', help='stores to compare with it')
    compare.add_argument('-o', '--out', default='results/compare', metavar='DIR', help='default: %(default)s')
    compare.add_argument('-i', '--images', metavar='DIR', help='images of the reference: draws the worst and the best')
    add_reading(compare)
    compare.set_defaults(run=_prior_compare)


def _prior_extract(options: argparse.Namespace) -> int:
    from sptsr.images.folder import ImageFolder
    from sptsr.priors.controls import FromOtherImages
    from sptsr.priors.extract import build_source
    from sptsr.priors.shards import extract_distributed

    images = images_of(options)
    from_image = options.oracle or options.through
    finer = [f'fine={options.fine}'] if options.fine > 1 and not from_image else []
    source = build_source(options.source, [*options.params, *finer])
    if options.oracle:
        source = FromOtherImages(source, ImageFolder(options.oracle, options.to_rgb), fine=options.fine)
    if options.through:
        from sptsr.restoring.through import Frozen, Through, noise_levels

        if options.oracle:
            raise UserError('prior extract: --oracle and --through are two images to look at; say one')
        network = Frozen.of_options(options.through)
        level = noise_levels(images)
        if options.sigma is not None:
            network, level = network.told(options.sigma), lambda _key, _image: options.sigma
        source = Through(source, network, level, options.fine)
    elif options.sigma is not None:
        raise UserError('prior extract: --sigma is for the network of --through; say which, or remove it')
    report = extract_distributed(images, options.store, source, options.max_masks)
    if report is not None:
        print(f'{options.store}: {report.made} priors made, {report.kept} were there')
    return 0


def _prior_info(options: argparse.Namespace) -> int:
    from sptsr.priors.describe import describe
    from sptsr.priors.store import PriorStore

    print('\n'.join(describe(PriorStore(options.store))))
    return 0


def _prior_verify(options: argparse.Namespace) -> int:
    from sptsr.priors.describe import verify
    from sptsr.priors.store import PriorStore

    if options.sample < 0:
        raise UserError(f'--sample {options.sample}: must be 0 (all) or above')
    images = images_of(options)
    faults = list(verify(images, PriorStore(options.store), options.sample))
    for fault in faults:
        print(fault)
    looked = min(options.sample, len(images)) or len(images)
    print(f'{options.store}: {looked - len(faults)} of {looked} images have their prior')
    return 1 if faults else 0


def _prior_show(options: argparse.Namespace) -> int:
    from sptsr.priors.store import PriorStore
    from sptsr.report.pictures import show_prior

    if not 0 <= options.zoom <= _MOST_ZOOM:
        raise UserError(f'--zoom {options.zoom}: must be in 0..{_MOST_ZOOM}')
    images = images_of(options)
    images.refuse_within(options.out)
    store = PriorStore(options.store)
    for key in options.keys:
        print(show_prior(images, store, key, options.out, options.zoom))
    return 0


def _prior_degrade(options: argparse.Namespace) -> int:
    from sptsr.images.chain import DegradationChain
    from sptsr.images.degrade import degrade
    from sptsr.images.draws import Degradation

    degradation: Degradation | DegradationChain
    if options.steps:
        degradation = DegradationChain.of(options.steps, options.seed, options.draws, options.gray)
    else:
        kind = next(name for name in ('noise', 'blur', 'jpeg', 'downsample') if getattr(options, name) is not None)
        low, high = _amounts(kind, getattr(options, kind))
        degradation = Degradation(kind, low, high, options.seed, options.draws, options.gray)
    count = degrade(images_of(options, options.gray), options.out, degradation)
    print(f'{options.out}: {count} images, {degradation}')
    return 0


def _amounts(kind: str, text: str) -> tuple[float, float]:
    from sptsr.images.draws import amounts_of

    try:
        return amounts_of(text)
    except ValueError as error:
        raise UserError(f'prior degrade: --{kind} {text}: must be a number, or LOW:HIGH for --noise') from error


def _prior_shuffle(options: argparse.Namespace) -> int:
    from sptsr.priors.controls import shuffle
    from sptsr.priors.store import PriorStore

    if options.seed < 0:
        raise UserError(f'--seed {options.seed}: must be 0 or above')
    count = shuffle(PriorStore(options.store), options.out, options.seed)
    print(f'{options.out}: {count} priors, each of another image')
    return 0


def _prior_compare(options: argparse.Namespace) -> int:
    from sptsr.report.store_comparison import compare_all

    images = images_of(options) if options.images else None
    print(compare_all(options.reference, options.others, options.out, images))
    return 0
