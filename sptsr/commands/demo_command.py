"""`sptsr demo` and `sptsr doctor`."""

from __future__ import annotations

import argparse


def add_demo(commands: argparse._SubParsersAction) -> None:
    """Adds `demo`."""
    demo = commands.add_parser('demo', help='the whole line on embedded photographs')
    demo.add_argument('-o', '--out', default='results/demo', metavar='DIR', help='default: %(default)s')
    demo.add_argument('--iterations', type=int, default=0, metavar='N', help='tuning steps; default: 3 minutes at most')
    demo.set_defaults(run=_demo)


def add_doctor(commands: argparse._SubParsersAction) -> None:
    """Adds `doctor`."""
    doctor = commands.add_parser('doctor', help='versions, devices, what works, what is missing')
    doctor.set_defaults(run=_doctor)


def _demo(options: argparse.Namespace) -> int:
    from sptsr.commands.demo import run_demo

    run_demo(options.out, options.iterations)
    return 0


def _doctor(_options: argparse.Namespace) -> int:
    from sptsr.commands.doctor import diagnose

    lines, well = diagnose()
    print('\n'.join(lines))
    return 0 if well else 1
