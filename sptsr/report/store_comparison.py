"""`sptsr prior compare`: a table, all figures as JSON, and pictures of the worst and the best image."""

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


def compare_all(
    reference: str, others: Sequence[str], out: str | os.PathLike[str], images: ImageFolder | None = None
) -> str:
    """Compares each store with the reference.

    Args:
        reference: store that is held for right.
        others: stores with its keys.
        out: folder for `NAME.json` of each, `table.md`, and with `images` also `NAME.png`.
        images: those that the reference was made from; the three worst and the three best are drawn.

    Returns:
        the table.

    Raises:
        UserError: a missing store or key, or two stores of one name.
    """
    names = [Path(other).name for other in others]
    if len(set(names)) < len(names):
        raise UserError(f'prior compare: two of the stores are called {max(names, key=names.count)}; rename one')
    right, rows = PriorStore(reference), []
    for name, other in zip(names, others, strict=True):
        store = PriorStore(other)
        by_key, mean = compare_stores(right, store)
        write_report(Path(out) / f'{name}.json', by_key, mean, [Path(reference).name, name])
        rows.append(_row(name, mean))
        if images is not None:
            _draw(Path(out) / f'{name}.png', right, store, by_key, images)
    header = ['store', 'best-match IoU', 'by area', 'boundary F', 'coverage', 'masks']
    table = markdown_table(header, rows)
    write_text(Path(out) / 'table.md', f'Reference: {Path(reference).name}, {len(right)} images.\n\n{table}\n')
    return table


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
    path: Path, right: PriorStore, other: PriorStore, by_key: dict[str, Likeness], images: ImageFolder, count: int = 3
) -> None:
    """Draws image, reference and other prior of the worst and the best images by boundary F."""
    order = sorted(by_key, key=lambda key: by_key[key].boundary_f)
    chosen = list(dict.fromkeys([*order[:count], *order[-count:]]))
    strips = []
    for key in chosen:
        image = images.read(key)
        reference = right.get(key, image)
        second = other.get(key)
        second = second if second.size == reference.size else second.resized(*reference.size)
        row = by_key[key]
        strips.append(
            side_by_side(
                [
                    (key, image),
                    (f'reference, {reference.count} masks', mask_overlay(image, reference)),
                    (f'F {row.boundary_f:.2f}, IoU {row.iou:.2f}', mask_overlay(image, second)),
                ]
            )
        )
    write_png(path, stack(strips))
