"""`sptsr prior compare`: a table, all figures as JSON, and pictures of the images with the worst and best likeness."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from sptsr.core.errors import UserError
from sptsr.core.files import write_text
from sptsr.images.decode import write_png
from sptsr.images.folder import ImageFolder
from sptsr.priors.likeness import Likeness, compare_stores, write_report
from sptsr.priors.store import PriorStore
from sptsr.report.pictures import mask_overlay, side_by_side, stack
from sptsr.report.tables import markdown_table

_HEAD = 'Reference: '  # of a table


def compare_all(
    reference: str, others: Sequence[str], out: str | os.PathLike[str], images: ImageFolder | None = None
) -> str:
    """Compares stores with a reference and writes `NAME.json` for each, `table.md`, and with `images` also `NAME.png`.

    Args:
        reference: path of the store that the others are compared with.
        others: paths of stores with the same keys.
        out: folder of the files.
        images: those that the reference was made from; the three with the worst and the three with the best boundary
            F are drawn.

    Returns:
        the table, in Markdown.

    Raises:
        UserError: a missing store or key, two stores of one name, `out` among the images, or an `out` that holds
            a store or a table of another command.
    """
    if images is not None:
        images.refuse_within(out)
    names = [Path(other).name for other in others]
    if len(set(names)) < len(names):
        raise UserError(f'prior compare: two of the stores are called {max(names, key=names.count)}; rename one')
    table_file = Path(out) / 'table.md'
    if (Path(out) / 'data.mdb').exists() or (table_file.is_file() and not _is_of_this_command(table_file)):
        raise UserError(f'{out}: holds a store, or a table of another command; choose another folder with -o')
    reference_store, rows = PriorStore(reference), []
    stores = [PriorStore(other) for other in others]
    compared = [compare_stores(reference_store, store) for store in stores]  # all, before anything is written
    for name, store, (by_key, mean) in zip(names, stores, compared, strict=True):
        write_report(Path(out) / f'{name}.json', by_key, mean, [Path(reference).name, name])
        rows.append(_row(name, mean))
        if images is not None:
            _draw(Path(out) / f'{name}.png', reference_store, store, by_key, images)
    header = ['store', 'best-match IoU', 'by area', 'boundary F', 'coverage', 'masks']
    table = markdown_table(header, rows)
    write_text(table_file, f'{_HEAD}{Path(reference).name}, {len(reference_store)} images.\n\n{table}\n')
    return table


def _is_of_this_command(table: Path) -> bool:
    with open(table, 'rb') as file:
        return file.read(len(_HEAD)) == _HEAD.encode()


def _row(name: str, mean: Likeness) -> list[str]:
    return [
        name,
        f'{mean.iou:.3f}',
        f'{mean.iou_weighted:.3f}',
        f'{mean.boundary_f:.3f}',
        f'{mean.coverage:.3f} of {mean.coverage_reference:.3f}',
        f'{mean.masks:.1f} of {mean.masks_reference:.1f}',
    ]


def _draw(
    path: Path,
    reference_store: PriorStore,
    other_store: PriorStore,
    by_key: dict[str, Likeness],
    images: ImageFolder,
    count: int = 3,
) -> None:
    """Writes a picture with image, reference and other prior of the `count` worst and best images by boundary F."""
    order = sorted(by_key, key=lambda key: by_key[key].boundary_f)
    chosen = list(dict.fromkeys([*order[:count], *order[-count:]]))
    strips = []
    for key in chosen:
        image = images.read(key)
        reference, other = reference_store.get(key, image), other_store.get(key)
        other = other.on_grid_of(reference)
        likeness = by_key[key]
        strips.append(
            side_by_side(
                [
                    (key, image),
                    (f'reference, {reference.count} masks', mask_overlay(image, reference)),
                    (f'F {likeness.boundary_f:.2f}, IoU {likeness.iou:.2f}', mask_overlay(image, other)),
                ]
            )
        )
    write_png(path, stack(strips))
