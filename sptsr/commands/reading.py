"""What all commands take that read a folder of images."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sptsr.images.folder import ImageFolder


def add_reading(command: argparse.ArgumentParser) -> None:
    """Adds how the images of a folder are read."""
    command.add_argument('--to-rgb', action='store_true', help='convert gray, RGBA and 16-bit images')
    command.add_argument('--include', nargs='+', default=[], metavar='GLOB', help="only these images, e.g. 'train/*'")


def images_of(options: argparse.Namespace, to_rgb: bool = False) -> ImageFolder:
    """Returns the folder of `--images`, read as the other options say, or converted in any case."""
    from sptsr.images.folder import ImageFolder

    return ImageFolder(options.images, options.to_rgb or to_rgb, options.include)
