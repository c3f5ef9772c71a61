"""The command line: parse, call, print."""

from __future__ import annotations

import argparse
import json
import os
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from sptsr.commands.prior_command import add_prior, add_reading
from sptsr.commands.restore_command import add_restore
from sptsr.core.errors import UserError, nearest
from sptsr.core.version import __version__
from sptsr.options.keys import LAUNCHERS
from sptsr.options.load import read_checked

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

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.add_argument(
            '--debug',
            action='store_true',
            default=argparse.SUPPRESS,  # else a command's default would hide what stands before the command
            help='print the traceback of a mistake as well; SPTSR_DEBUG=1 does the same',
        )

    def error(self, message: str) -> NoReturn:
        if 'invalid choice' in message and self._subparsers is not None:
            wrong = message.split("invalid choice: '", 1)[-1].split("'", 1)[0]
            choices = list(self._subparsers._group_actions[0].choices or ())
            message = f"no command '{wrong}'{nearest(wrong, choices) or '; known: ' + ', '.join(choices)}"
        self.exit(2, f'{self.prog}: {message} (see {self.prog} --help)\n')


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code.

    0: done. 1: done, and something is wrong with what was looked at. 2: a mistake of the user, in one line.
    3: an error that sptsr does not know, of its own or of a user's network or plug-in, with its traceback.
    """
    parser = build_parser()
    options = parser.parse_args(arguments)
    # What libraries say to their own authors is no news to a user.
    warnings.filterwarnings('ignore', category=FutureWarning)
    warnings.filterwarnings('ignore', message='torch.meshgrid')
    try:
        return options.run(options)
    except UserError as error:
        if getattr(options, 'debug', False) or os.environ.get('SPTSR_DEBUG', '0') not in ('', '0'):
            traceback.print_exception(error)
        print(f'sptsr: {error}', file=sys.stderr)
        return 2
    except BrokenPipeError:  # `sptsr ... | head`
        sys.stderr.close()
        return 0
    except OSError as error:
        if error.filename is None:
            return _unexpected(error)
        what = f'{error.filename}: {error.strerror}'
        print(f'sptsr: {what}; check the path, its rights and the free space', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('sptsr: interrupted; the same command goes on where it stopped', file=sys.stderr)
        return 130
    except Exception as error:
        return _unexpected(error)


def _unexpected(error: Exception) -> int:
    """Prints whose error it seems to be, in one line, and its traceback; returns the exit code."""
    frames = traceback.extract_tb(error.__traceback__)
    libraries = (str(Path(__file__).parents[1]), *sysconfig.get_paths().values(), str(Path(os.__file__).parent))
    theirs = [frame for frame in frames if frame.filename.endswith('.py') and not frame.filename.startswith(libraries)]
    if theirs:
        whose = f'it comes from {theirs[-1].filename}:{theirs[-1].lineno}, which is not part of sptsr'
    else:
        whose = 'this looks like a fault of sptsr; please report it with all of this'
    print(f'sptsr: {type(error).__name__}: {(str(error).splitlines() or [""])[0]} ({whose})', file=sys.stderr)
    traceback.print_exception(error)
    return 3


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

    add_restore(commands)
    add_prior(commands, _Parser)
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
        command.add_argument(
            '--launcher',
            choices=LAUNCHERS,
            default='none',
            help='who started the processes that share the work (torchrun: pytorch; srun: slurm); default: none',
        )
        command.set_defaults(run=run)
        if name == 'train':
            command.add_argument('--auto_resume', action='store_true', help='go on also when the options changed')
            command.add_argument('--fresh', action='store_true', help='put an unfinished run aside and start anew')

    shown = commands.add_parser(
        'options',
        help='an option file as it is understood, each value with where it comes from',
        description='Checks an option file and prints it whole: base merged, defaults filled in.',
    )
    what = shown.add_mutually_exclusive_group(required=True)
    what.add_argument('-opt', metavar='X.yml', help='option file')
    what.add_argument('--schema', action='store_true', help='print the JSON schema of option files, for editors')
    shown.add_argument('--root', default='.', metavar='DIR', help='where outputs would go; default: here')
    shown.add_argument('--force_yml', nargs='+', default=[], metavar='a:b=c', help='override options')
    shown.set_defaults(run=_options)

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
    add_reading(prepare)
    prepare.set_defaults(run=_data_prepare)


def _demo(options: argparse.Namespace) -> int:
    from sptsr.commands.demo import run_demo

    run_demo(options.out, options.iterations)
    return 0


def _data_prepare(options: argparse.Namespace) -> int:
    from sptsr.images.folder import ImageFolder
    from sptsr.images.prepare import prepare

    images = ImageFolder(options.images, options.to_rgb, options.include)
    count = prepare(images, options.out, options.scale, options.mod_crop, options.sub_image, options.step, options.lmdb)
    print(f'{options.out}: {count} pairs at scale {options.scale}')
    return 0


def _train(options: argparse.Namespace) -> int:
    read_checked(options.opt, True, options.force_yml)  # mistakes are said before torch is imported
    from sptsr.tuning.training import train_pipeline

    live = sys.stderr.isatty()
    train_pipeline(
        options.opt, options.root, options.auto_resume, options.fresh, options.force_yml, live, options.launcher
    )
    return 0


def _test(options: argparse.Namespace) -> int:
    read_checked(options.opt, False, options.force_yml)
    from sptsr.report.tables import results_table
    from sptsr.tuning.testing import test_pipeline

    results = test_pipeline(options.opt, options.root, options.force_yml, launcher=options.launcher)
    if int(os.environ.get('RANK', '0')) == 0:
        print(results_table(results))
    return 0


def _options(options: argparse.Namespace) -> int:
    if options.schema:
        from sptsr.options.json_schema import json_schema

        print(json.dumps(json_schema(), indent=1))
    else:
        from sptsr.options.listing import resolved

        print(resolved(options.opt, options.force_yml, options.root))
    return 0


def _sites(options: argparse.Namespace) -> int:
    from sptsr.commands.network_report import describe_network, describe_options

    if (options.network is None) == (options.opt is None):
        raise UserError('sites: give a network (a name, or file.py:NAME), or -opt X.yml')
    print(describe_options(options.opt) if options.opt else describe_network(options.network, options.arguments))
    return 0


def _doctor(_options: argparse.Namespace) -> int:
    from sptsr.commands.doctor import diagnose

    lines, well = diagnose()
    print('\n'.join(lines))
    return 0 if well else 1
