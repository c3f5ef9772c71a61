"""The command line: parse, call, print."""

from __future__ import annotations

import argparse
import io
import os
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from sptsr.commands.compare_command import add_compare
from sptsr.commands.cost_command import add_cost
from sptsr.commands.data_command import add_data
from sptsr.commands.demo_command import add_demo, add_doctor
from sptsr.commands.export_command import add_export
from sptsr.commands.options_command import add_options
from sptsr.commands.prior_command import add_prior
from sptsr.commands.restore_command import add_restore
from sptsr.commands.run_command import add_train_and_test
from sptsr.commands.sites_command import add_sites
from sptsr.commands.table_command import add_table
from sptsr.core.errors import UserError, is_disk_full, nearest, shortened
from sptsr.core.homes import expanded
from sptsr.core.version import __version__

# Errors of a disk or a quota that is full, which come without a file's name.
_ABOUT = """\
Tune a frozen image-restoration network with what Segment Anything sees in the degraded image.

Start here:   sptsr demo          the whole line on embedded photographs, nothing downloaded
              sptsr doctor        what works on this machine, and what would mend the rest
A real run:   sptsr data prepare    LR images, sub-images, LMDB
              sptsr prior extract   masks of every LQ image into a prior store
              sptsr train / test    tune and evaluate, by a YAML option file (see options/)
              sptsr table           all runs of a table, by a study file (see options/studies/)
Your images:  sptsr restore         photographs of your own, with an adapter
              sptsr export          backbone and adapter as one ONNX file
Your network: sptsr sites           where units can go in it
              sptsr cost            what they cost: parameters, multiply-adds, time, memory
"""


class _Help(argparse.HelpFormatter):
    """Fills paragraphs to the width of the terminal, and leaves text of several lines as it is written."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if '\n' in text:
            return ''.join(indent + line for line in text.splitlines(keepends=True))
        return super()._fill_text(text, width, indent)


class _Parser(argparse.ArgumentParser):
    """Ends a mistake in one line on stderr, with the nearest right command, and exit code 2."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **{'formatter_class': _Help, **settings})
        self.add_argument(
            '--debug',
            action='store_true',
            default=argparse.SUPPRESS,  # else a command's default would hide what stands before the command
            help='print the traceback of a mistake as well; SPTSR_DEBUG=1 does the same',
        )

    def parse_known_args(self, *arguments: Any, **settings: Any) -> Any:
        """Ends what a command does not know there: argparse passes it up to `sptsr`, whose help has no options."""
        found, unknown = super().parse_known_args(*arguments, **settings)
        if unknown and self._subparsers is None:
            wrong = unknown[0].partition('=')[0]
            if not wrong.startswith('-'):
                self.error(f"'{wrong}' belongs to no option")
            self.error(f"no option '{wrong}'{nearest(wrong, self._option_string_actions)}")
        return found, unknown

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
    # Warnings of libraries that only their authors can act on.
    warnings.filterwarnings('ignore', category=FutureWarning)
    warnings.filterwarnings('ignore', message='torch.meshgrid')
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='backslashreplace')  # names need not be UTF-8
    try:
        vars(options).update(expanded(vars(options)))
        return options.run(options)
    except UserError as error:
        if getattr(options, 'debug', False) or os.environ.get('SPTSR_DEBUG', '0') not in ('', '0'):
            traceback.print_exception(error)
        print(f'sptsr: {shortened(str(error))}', file=sys.stderr)
        return 2
    except BrokenPipeError:  # `sptsr ... | head`
        sys.stderr.close()
        return 0
    except OSError as error:
        if error.filename is None and not is_disk_full(error):
            return _unexpected(error)
        what = f'{error.filename}: {error.strerror}' if error.filename else str(error.strerror)
        print(f'sptsr: {shortened(what)}; check the path, its rights and the free space', file=sys.stderr)
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
    parser = _Parser(prog='sptsr', description=_ABOUT)
    parser.add_argument('--version', action='version', version=f'sptsr {__version__}')
    commands = parser.add_subparsers(title='commands', metavar='COMMAND', required=True, parser_class=_Parser)

    add_demo(commands)
    add_doctor(commands)
    add_data(commands, _Parser)
    add_prior(commands, _Parser)
    add_train_and_test(commands)
    add_compare(commands)
    add_table(commands)
    add_options(commands)
    add_sites(commands)
    add_cost(commands)
    add_restore(commands)
    add_export(commands)
    return parser
