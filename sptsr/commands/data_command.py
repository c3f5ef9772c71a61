"""`sptsr data`."""

from __future__ import annotations

import argparse

from sptsr.commands.reading import add_reading, images_of


def add_data(commands: argparse._SubParsersAction, parser_class: type[argparse.ArgumentParser]) -> None:
    """Adds `data` and its commands."""
    data = commands.add_parser('data', help='make training and test sets')
    verbs = data.add_subparsers(title='commands', metavar='COMMAND', required=True, parser_class=parser_class)
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


def _data_prepare(options: argparse.Namespace) -> int:
    from sptsr.images.prepare import prepare

    images = images_of(options)
    count = prepare(images, options.out, options.scale, options.mod_crop, options.sub_image, options.step, options.lmdb)
    print(f'{options.out}: {count} pairs at scale {options.scale}')
    return 0
