"""The command line: parse, call, print."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from sptsr.errors import UserError, nearest
from sptsr.version import __version__

_ABOUT = """\
Tune a frozen image-restoration network with what Segment Anything sees in the degraded image.

Start here:   sptsr demo          the whole line on embedded photographs, nothing downloaded
              sptsr doctor        what works on this machine, and what would mend the rest
A real run:   sptsr data prepare    LR images, sub-images, LMDB
              sptsr prior extract   masks of every LQ image into a prior store
              sptsr train / test    tune and evaluate, by a YAML option file (see options/)
"""


class _Parser(argparse.ArgumentParser):
    """Ends a mistake in one line on stderr, with the nearest right command, and exit code 2."""

    def error(self, message: str) -> NoReturn:
        if 'invalid choice' in message and self._subparsers is not None:
            wrong = message.split("invalid choice: '", 1)[-1].split("'", 1)[0]
            choices = list(self._subparsers._group_actions[0].choices or ())
            message = f"no command '{wrong}'{nearest(wrong, choices) or '; known: ' + ', '.join(choices)}"
        self.exit(2, f'{self.prog}: {message} (see {self.prog} --help)\n')


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0 done, 1 found something wrong, 2 a mistake of the user."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    try:
        return options.run(options)
    except UserError as error:
        print(f'sptsr: {error}', file=sys.stderr)
        return 2
    except BrokenPipeError:  # `sptsr ... | head`
        sys.stderr.close()
        return 0
    except OSError as error:
        if error.filename is None:
            raise
        what = f'{error.filename}: {error.strerror}'
        print(f'sptsr: {what}; check the path, its rights and the free space', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('sptsr: interrupted; the same command goes on where it stopped', file=sys.stderr)
        return 130


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of all commands."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = _Parser(prog='sptsr', description=_ABOUT, formatter_class=raw)
    parser.add_argument('--version', action='version', version=f'sptsr {__version__}')
    commands = parser.add_subparsers(title='commands', metavar='COMMAND', required=True, parser_class=_Parser)

    demo = commands.add_parser('demo', help='the whole line on embedded photographs')
    demo.add_argument('-o', '--out', default='results/demo', metavar='DIR', help='default: %(default)s')
    demo.add_argument('--iterations', type=int, default=0, metavar='N', help='tuning steps; default: 3 minutes at most')
    demo.set_defaults(run=_demo)

    _add_prior(commands)
    _add_data(commands)

    for name, help_text, run in (
        ('train', 'tune an adapter as an option file says', _train),
        ('test', 'evaluate as an option file says', _test),
    ):
        command = commands.add_parser(name, help=help_text)
        command.add_argument('-opt', required=True, metavar='X.yml', help='option file; see options/')
        command.add_argument('--root', default='.', metavar='DIR', help='where outputs go; default: here')
        command.add_argument(
            '--force_yml', nargs='+', default=[], metavar='a:b=c', help='override options, e.g. train:total_iter=100'
        )
        command.set_defaults(run=run)
        if name == 'train':
            command.add_argument('--auto_resume', action='store_true', help='go on also when the options changed')
            command.add_argument('--fresh', action='store_true', help='put an unfinished run aside and start anew')

    sites = commands.add_parser(
        'sites',
        help='candidate sites of a network, and a proposal to paste',
        description='Runs a network once and lists the modules whose output a unit could refine.',
        epilog='examples: sptsr sites SwinIR window_size=8    sptsr sites ./my_net.py:MyNet    '
        'sptsr sites spandrel path=model.pth    sptsr sites -opt my_run.yml',
    )
    sites.add_argument('network', nargs='?', metavar='NETWORK', help='registered name, or path/to/file.py:NAME')
    sites.add_argument('arguments', nargs='*', metavar='k=v', help='arguments of the network')
    sites.add_argument('-opt', metavar='X.yml', help='take the network from an option file')
    sites.set_defaults(run=_sites)

    doctor = commands.add_parser('doctor', help='versions, devices, what works, what is missing')
    doctor.set_defaults(run=_doctor)
    return parser


def _add_prior(commands: argparse._SubParsersAction) -> None:
    prior = commands.add_parser('prior', help='extract and look at priors')
    verbs = prior.add_subparsers(title='commands', metavar='COMMAND', required=True, parser_class=_Parser)

    extract = verbs.add_parser(
        'extract',
        help='fill a prior store; run again to go on',
        epilog='sources: felzenszwalb (no weights), labels (--set dir=FOLDER), sam (--set checkpoint=FILE), '
        'transformers (--set model=FOLDER), random (--set like=STORE); docs/priors.md has all parameters. '
        'On several GPUs or machines: torchrun --nproc_per_node N -m sptsr.priors.extract ...',
    )
    extract.add_argument('-i', '--images', required=True, metavar='DIR', help='LQ images, or a BasicSR .lmdb')
    extract.add_argument('-o', '--store', required=True, metavar='STORE', help='folder of the store')
    extract.add_argument(
        '--source', required=True, metavar='NAME', help='felzenszwalb, labels, sam, transformers or random'
    )
    extract.add_argument('--set', nargs='+', default=[], metavar='k=v', dest='params', help='parameters of the source')
    extract.add_argument('--oracle', metavar='DIR', help='make the masks from these images (GT) of the same names')
    extract.add_argument('--max-masks', type=int, default=64, metavar='N', help='default: %(default)s')
    _add_reading(extract)
    extract.set_defaults(run=_prior_extract)

    info = verbs.add_parser('info', help='header and statistics of a store')
    info.add_argument('store', metavar='STORE')
    info.set_defaults(run=_prior_info)

    verify = verbs.add_parser('verify', help='check a store against its images')
    verify.add_argument('store', metavar='STORE')
    verify.add_argument('-i', '--images', required=True, metavar='DIR')
    verify.add_argument('--sample', type=int, default=0, metavar='N', help='look at N images only; default: all')
    _add_reading(verify)
    verify.set_defaults(run=_prior_verify)

    show = verbs.add_parser('show', help='picture of the masks of some images')
    show.add_argument('store', metavar='STORE')
    show.add_argument('keys', nargs='+', metavar='KEY', help='image names without suffix')
    show.add_argument('-i', '--images', required=True, metavar='DIR')
    show.add_argument('-o', '--out', default='results/priors', metavar='DIR', help='default: %(default)s')
    show.add_argument('--zoom', type=int, default=0, metavar='N', help='enlargement; default: to about 480 pixels')
    _add_reading(show)
    show.set_defaults(run=_prior_show)

    _add_controls(verbs)


def _add_controls(verbs: argparse._SubParsersAction) -> None:
    degrade = verbs.add_parser('degrade', help='degraded images, to make priors from')
    degrade.add_argument('-i', '--images', required=True, metavar='DIR', help='clean images')
    degrade.add_argument('-o', '--out', required=True, metavar='DIR', help='folder for the degraded ones')
    kind = degrade.add_mutually_exclusive_group(required=True)
    kind.add_argument('--noise', type=float, metavar='SIGMA', help='Gaussian noise, sigma of 255')
    kind.add_argument('--blur', type=float, metavar='SIGMA', help='Gaussian blur, sigma in pixels')
    kind.add_argument('--jpeg', type=float, metavar='QUALITY', help='JPEG of this quality, 1..100')
    kind.add_argument('--downsample', type=float, metavar='N', help="MATLAB's bicubic by a whole factor")
    degrade.add_argument('--seed', type=int, default=0, metavar='N', help='noise_seed of the dataset; default: 0')
    _add_reading(degrade)
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
    _add_reading(compare)
    compare.set_defaults(run=_prior_compare)


def _add_data(commands: argparse._SubParsersAction) -> None:
    data = commands.add_parser('data', help='make training and test sets')
    verbs = data.add_subparsers(title='commands', metavar='COMMAND', required=True, parser_class=_Parser)
    prepare = verbs.add_parser('prepare', help="LR images (MATLAB's bicubic), sub-images, LMDB")
    prepare.add_argument('-i', '--images', required=True, metavar='DIR', help='GT images')
    prepare.add_argument('-o', '--out', required=True, metavar='DIR', help='GTxN and LRxN are made in it')
    prepare.add_argument('--scale', type=int, required=True, metavar='N')
    prepare.add_argument('--mod-crop', action='store_true', help='cut sizes to a multiple of the scale')
    prepare.add_argument('--sub-image', type=int, default=0, metavar='PX', help='cut into squares of this side')
    prepare.add_argument(
        '--step', type=int, default=0, metavar='PX', help='distance of sub-images; default: their side'
    )
    prepare.add_argument('--lmdb', action='store_true', help='write BasicSR LMDBs')
    _add_reading(prepare)
    prepare.set_defaults(run=_data_prepare)


def _add_reading(command: argparse.ArgumentParser) -> None:
    command.add_argument('--to-rgb', action='store_true', help='convert gray, RGBA and 16-bit images')
    command.add_argument('--include', nargs='+', default=[], metavar='GLOB', help="only these images, e.g. 'train/*'")


def _demo(options: argparse.Namespace) -> int:
    from sptsr.demo import run_demo

    run_demo(options.out, options.iterations)
    return 0


def _prior_extract(options: argparse.Namespace) -> int:
    from sptsr.images import ImageFolder
    from sptsr.priors.controls import FromOtherImages
    from sptsr.priors.extract import build_source, extract_distributed

    images = ImageFolder(options.images, options.to_rgb, options.include)
    source = build_source(options.source, options.params)
    if options.oracle:
        source = FromOtherImages(source, ImageFolder(options.oracle, options.to_rgb))
    report = extract_distributed(images, options.store, source, options.max_masks)
    if report is not None:
        print(f'{options.store}: {report.made} priors made, {report.kept} were there')
    return 0


def _prior_info(options: argparse.Namespace) -> int:
    from sptsr.priors.extract import describe
    from sptsr.priors.store import PriorStore

    print('\n'.join(describe(PriorStore(options.store))))
    return 0


def _prior_verify(options: argparse.Namespace) -> int:
    from sptsr.images import ImageFolder
    from sptsr.priors.extract import verify
    from sptsr.priors.store import PriorStore

    images = ImageFolder(options.images, options.to_rgb, options.include)
    faults = list(verify(images, PriorStore(options.store), options.sample))
    for fault in faults:
        print(fault)
    looked = min(options.sample, len(images)) or len(images)
    print(f'{options.store}: {looked - len(faults)} of {looked} images have their prior')
    return 1 if faults else 0


def _prior_show(options: argparse.Namespace) -> int:
    from sptsr.images import ImageFolder
    from sptsr.priors.store import PriorStore
    from sptsr.report.pictures import show_prior

    images = ImageFolder(options.images, options.to_rgb, options.include)
    store = PriorStore(options.store)
    for key in options.keys:
        print(show_prior(images, store, key, options.out, options.zoom))
    return 0


def _prior_degrade(options: argparse.Namespace) -> int:
    from sptsr.data.degrade import degrade
    from sptsr.images import ImageFolder

    kinds = ('noise', 'blur', 'jpeg', 'downsample')
    kind = next(name for name in kinds if getattr(options, name) is not None)
    images = ImageFolder(options.images, options.to_rgb, options.include)
    count = degrade(images, options.out, kind, getattr(options, kind), options.seed)
    print(f'{options.out}: {count} images, {kind} {getattr(options, kind):g}')
    return 0


def _prior_shuffle(options: argparse.Namespace) -> int:
    from sptsr.priors.controls import shuffle
    from sptsr.priors.store import PriorStore

    count = shuffle(PriorStore(options.store), options.out, options.seed)
    print(f'{options.out}: {count} priors, each of another image')
    return 0


def _prior_compare(options: argparse.Namespace) -> int:
    from sptsr.compare import compare_all
    from sptsr.images import ImageFolder

    images = ImageFolder(options.images, options.to_rgb, options.include) if options.images else None
    print(compare_all(options.reference, options.others, options.out, images))
    return 0


def _data_prepare(options: argparse.Namespace) -> int:
    from sptsr.data.prepare import prepare
    from sptsr.images import ImageFolder

    images = ImageFolder(options.images, options.to_rgb, options.include)
    count = prepare(images, options.out, options.scale, options.mod_crop, options.sub_image, options.step, options.lmdb)
    print(f'{options.out}: {count} pairs at scale {options.scale}')
    return 0


def _train(options: argparse.Namespace) -> int:
    from sptsr.train import train_pipeline

    train_pipeline(options.opt, options.root, options.auto_resume, options.fresh, options.force_yml)
    return 0


def _test(options: argparse.Namespace) -> int:
    from sptsr.report.tables import results_table
    from sptsr.test import test_pipeline

    print(results_table(test_pipeline(options.opt, options.root, options.force_yml)))
    return 0


def _sites(options: argparse.Namespace) -> int:
    from sptsr.sites import describe_network, describe_options

    if (options.network is None) == (options.opt is None):
        raise UserError('sites: give a network (a name, or file.py:NAME), or -opt X.yml')
    print(describe_options(options.opt) if options.opt else describe_network(options.network, options.arguments))
    return 0


def _doctor(_options: argparse.Namespace) -> int:
    from sptsr.doctor import diagnose

    lines, well = diagnose()
    print('\n'.join(lines))
    return 0 if well else 1
