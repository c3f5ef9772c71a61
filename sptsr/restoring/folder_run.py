"""Restoring a file or a folder of images: masks made on the way, and faults named."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from sptsr.archs.backbone import kind_of
from sptsr.archs.call import takes_sigma
from sptsr.archs.precision import HALVES, keep_ends_exact
from sptsr.archs.spt_arch import SPTNet
from sptsr.core.errors import UserError, is_disk_full, is_out_of_memory, reason_of, refusing
from sptsr.core.files import check_writable, sha256_file
from sptsr.core.free_memory import free_bytes
from sptsr.core.progress import bar
from sptsr.images.any_image import AnyImage, Pixels, read_any, write_any
from sptsr.images.bicubic import imresize
from sptsr.images.decode import RGB
from sptsr.images.folder import IMAGE_SUFFIXES, image_key
from sptsr.masks.prior import Prior
from sptsr.restoring.memory import bytes_a_pixel, fitting_tile, most_pixels
from sptsr.restoring.restorer import arrays_of, check_prior, pixels_of, restore_tensor
from sptsr.restoring.result_files import JOURNAL, Journal, results_in, targets_of

# What is looked for in a folder; sets for training have no animations.
SUFFIXES = (*IMAGE_SUFFIXES, '.pgm', '.gif', '.jfif', '.avif')
# Gives the masks of an image: its RGB pixels and its key (see `image_key`).
Masks = Callable[[Any, str], Prior]
# Looks at an image: its name, the image, its masks, the restored one, and what the frozen network makes of it;
# images are uint8 [H, W, 3].
OnImage = Callable[[str, RGB, 'Prior | None', RGB, RGB], None]


@dataclass(frozen=True)
class How:
    """How images are restored.

    Attributes:
        tile: side of a tile in LQ pixels; 0 for the whole image; None to choose by the free memory.
        self_ensemble: average over eight flips and rotations.
        sigma: noise level of 255; `auto` estimates it for each image; None where the network takes none.
        precision: `fp32`; or `bf16` or `fp16` for all but the first and last layers (see `keep_ends_exact`).
        suffix: between a file's name and its format.
        format: of the results, such as `png`.
    """

    tile: int | None = None
    self_ensemble: bool = False
    sigma: float | str | None = None
    precision: str = 'fp32'
    suffix: str = ''
    format: str = 'png'


@dataclass(frozen=True)
class Outcome:
    """What became of a folder.

    Attributes:
        made, kept: images restored now, and by an earlier run of the same command.
        faults: one line for each image that failed.
        notes: one line for each image that was read or written otherwise than it was.
    """

    made: int
    kept: int
    faults: list[str]
    notes: list[str]


def find_images(given: Path, out: Path) -> dict[str, Path]:
    """Lists the images of a file or folder by their path relative to it.

    What lies below `out` is left out, and what a journal below the folder names as a result, of whatever command. Where
    `out` is the folder itself, its own results are left out.

    Raises:
        UserError: nothing there, or no image in it.
    """
    if given.is_file():
        return {given.name: given}
    if not given.is_dir():
        raise UserError(f'{given}: no such file or folder; check the path')
    found = {}
    results: set[str] = set()
    place = os.path.realpath(out)  # `Path.resolve` fails where a link points to itself
    entered: set[str] = set()  # linked folders are followed, but none twice

    def unreadable(error: OSError) -> None:
        raise UserError(f'{error.filename}: {error.strerror}; make the folder readable, or move it away') from error

    for folder, subfolders, names in os.walk(given, onerror=unreadable, followlinks=True):
        here = Path(folder)
        if os.path.realpath(here) in entered:
            subfolders.clear()
            continue
        entered.add(os.path.realpath(here))
        if JOURNAL in names and (here != given or os.path.realpath(given) == place):
            results |= {os.path.realpath(here / name) for name in results_in(here)}
        subfolders[:] = sorted(
            name for name in subfolders if os.path.realpath(here / name) != place and not name.startswith('.')
        )
        for name in sorted(names):
            if not name.lower().endswith(SUFFIXES) or name.startswith('.'):
                continue
            if not results or os.path.realpath(here / name) not in results:
                found[str((here / name).relative_to(given))] = here / name
    if not found:
        raise UserError(f'{given}: no images here ({" ".join(SUFFIXES)}); check the path')
    return found


def restore_all(
    net: SPTNet,
    images: Mapping[str, Path],
    out: Path,
    how: How,
    masks: Masks | None,
    settings: Mapping[str, Any],
    on_image: OnImage | None = None,
    mask_digest: Callable[[str], str] | None = None,
) -> Outcome:
    """Restores images into a folder, one after the other; the next one is read, and its masks made, meanwhile.

    An image that fails does not stop the others. What an earlier run of the same command finished is kept.

    Args:
        net: in eval mode, on its device.
        images: from `find_images`.
        out: folder; made where it is missing.
        how: see `How`.
        masks: gives the masks; None where the units use none.
        settings: all that decides the results, JSON values; another run with others begins anew.
        on_image: is given each image and what became of it, also by an earlier run (see `OnImage`). The frozen network
            restores it once more for that.
        mask_digest: gives a digest of an image's masks by its key, where `settings` do not decide them alone.

    Raises:
        UserError: a result would overwrite an image, two images have one name, or the folder cannot be written.
    """
    targets = targets_of(images, out, how.suffix, how.format)
    check_writable(out)
    if how.precision != 'fp32':
        keep_ends_exact(net)
    journal = Journal(out, settings, images)
    cost = bytes_a_pixel(net.backbone, net.sizes, net.in_channels)
    room = most_pixels(net.scale) // (2 if on_image else 1)
    made = kept = 0
    faults: list[str] = []
    notes: list[str] = []

    def prepare(name: str) -> _Ready | None:
        if not images[name].is_file():  # a pipe would be waited for
            raise UserError(f'{images[name]}: not a regular file; remove it')
        digest = sha256_file(images[name])
        if mask_digest is not None:
            of_masks = mask_digest(image_key(name))
            digest = f'{digest} {of_masks}' if of_masks else digest
        is_there = journal.holds(name, digest, targets[name])
        if is_there and on_image is None:
            return None
        image = read_any(images[name], room)
        with refusing(f'{name}: no masks of it can be made', 'see whether its source is for such images'):
            prior = None if masks is None else masks(image.rgb8(), image_key(name))
        return _Ready(digest, image, prior, is_there)

    with ThreadPoolExecutor(1) as reader, bar(len(images), 'restore') as progress:
        for name, ready in _ahead(reader, prepare, list(images)):
            result: _Ready | None = None
            try:
                result = ready()
                restored: AnyImage | None = None
                if result is None or result.is_there:
                    kept += 1
                else:
                    restored, said = _restored(net, result, how, cost)
                    journal.begin(name, result.digest, targets[name])
                    said += write_any(targets[name], restored)
                    journal.note(name, result.digest, targets[name])
                    made += 1
                    notes += [f'{name}: {", ".join(said)}'] if said else []
                if result is not None and on_image is not None:
                    try:
                        restored = restored or read_any(targets[name], room * net.scale**2)
                    except UserError as error:  # larger than Pillow reads
                        notes.append(f'{name}: not in the report ({error})')
                        progress.update()
                        continue
                    with net.units_off():
                        frozen, _ = _restored(net, result, how, cost)
                    on_image(name, result.image.rgb8(), result.prior, restored.rgb8(), frozen.rgb8())
            except UserError as error:
                if result is not None and is_disk_full(error.__cause__):
                    faults.append(f'{error}; the images from this one on were not restored')
                    break
                if result is not None and is_out_of_memory(error.__cause__):
                    faults.append(_too_large(name, net))
                else:
                    faults.append(str(error) if name in str(error) else f'{name}: {error}')
            except OSError as error:
                if error.filename is None:  # of no file: not of this image alone
                    raise
                faults.append(f'{name}: {error.strerror}; check its name, its rights and the free space')
            except Exception as error:  # of a unit or stem of one's own, say
                what = f'{name}: cannot be restored ({reason_of(error)}); see whether the network takes such images'
                faults.append(_too_large(name, net) if is_out_of_memory(error) else what)
            progress.update()
    return Outcome(made, kept, faults, notes)


def _too_large(name: str, net: SPTNet) -> str:
    return f'{name}: {net.backbone.__class__.__name__} runs out of memory on it; say --tile 256'


@dataclass(frozen=True)
class _Ready:
    """An image that is read and has its masks; `is_there` says that an earlier run restored it."""

    digest: str
    image: AnyImage
    prior: Prior | None
    is_there: bool


def _ahead(
    reader: ThreadPoolExecutor, prepare: Callable[[str], _Ready | None], names: list[str]
) -> Iterator[tuple[str, Callable[[], _Ready | None]]]:
    """Yields each name with what gives its prepared image, while the next one is prepared in another thread."""
    coming = reader.submit(prepare, names[0])
    for number, name in enumerate(names):
        current = coming
        if number + 1 < len(names):
            coming = reader.submit(prepare, names[number + 1])
        yield name, current.result


def _restored(net: SPTNet, ready: _Ready, how: How, cost: float) -> tuple[AnyImage, list[str]]:
    """Returns the restored image, and what there is to say of it."""
    image, said = ready.image, list(ready.image.notes)
    height, width = image.colour.shape[:2]
    check_prior(net, ready.prior, (height, width))
    sigma = how.sigma
    if sigma == 'auto':
        sigma = estimated_sigma(image.colour, image.white)
        said.append(f'noise level {sigma:.1f} estimated')
    tile = how.tile
    if tile is None:
        tile = fitting_tile(height, width, cost, free_bytes(kind_of(net.backbone)['device']))
    given = float(sigma) if sigma is not None and takes_sigma(net.backbone) else None
    kind = kind_of(net.backbone)['device'].type
    with torch.autocast(kind, HALVES.get(how.precision), enabled=how.precision != 'fp32'):
        pixels = restore_tensor(
            net,
            _tensor(image, net),
            ready.prior,
            tile or None,
            how.self_ensemble,
            given,
            partial(pixels_of, white=image.white),
        )
    return _image(arrays_of(pixels)[0], image, net.scale), said


def _tensor(image: AnyImage, net: SPTNet) -> Tensor:
    """Returns [1, C, h, w] in 0..1; gray is repeated for a network of three channels."""
    colour = image.colour
    if net.in_channels == 3 and colour.shape[2] == 1:
        colour = np.repeat(colour, 3, axis=2)
    if colour.shape[2] != net.in_channels:
        raise UserError(
            f'the network takes {net.in_channels} channels, and the image has {colour.shape[2]}; convert it'
        )
    planes = torch.from_numpy(np.ascontiguousarray(colour.transpose(2, 0, 1), dtype=np.float32) / image.white)
    return planes[None].to(**kind_of(net.backbone))


def _image(planes: Pixels, image: AnyImage, scale: int) -> AnyImage:
    """Returns restored planes [H, W, C'] as an image like the one they were made of: gray, with alpha by bicubic.

    Alpha is not a photograph: a network trained on photographs draws texture into it and moves its edges.
    """
    if image.colour.shape[2] == 1:
        planes = planes.mean(axis=2, keepdims=True, dtype=np.float32).round().astype(planes.dtype)
    alpha = image.alpha
    if alpha is not None and scale != 1:
        alpha = _enlarged(alpha, scale)
    return replace(image, colour=planes, alpha=alpha)


def _enlarged(alpha: Any, scale: int) -> Any:
    if alpha.dtype == np.uint8:
        return imresize(np.repeat(alpha[:, :, None], 3, axis=2), scale)[:, :, 0]
    size = alpha.shape[1] * scale, alpha.shape[0] * scale
    return cv2.resize(alpha, size, interpolation=cv2.INTER_CUBIC)


def estimated_sigma(pixels: Any, white: float) -> float:
    """Returns the noise level of an image [H, W, C], of 255: Donoho's estimate by wavelets as scikit-image makes it."""
    from skimage.restoration import estimate_sigma

    with warnings.catch_warnings():
        warnings.simplefilter('ignore', UserWarning)  # it takes an image of three columns for one with channels
        level = estimate_sigma(pixels / white, average_sigmas=True, channel_axis=2)
    return float(np.clip(255 * np.nan_to_num(level), 0, 255))
