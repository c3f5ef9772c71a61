"""Tables as plain text and Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sptsr.evaluation.records import Results, shown_exclusions


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Returns a table as plain text.

    Args:
        header: names of the columns.
        rows: one text for each column.
        left: number of columns from the left that are left-aligned; the others are right-aligned.
    """
    widths = [max(len(row[n]) for row in [header, *rows]) for n in range(len(header))]
    lines = []
    for row in [header, ['-' * width for width in widths], *rows]:
        cells = [
            cell.ljust(width) if number < left else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append('  '.join(cells).rstrip())
    return '\n'.join(lines)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table in Markdown, with columns padded so that its source is legible."""
    widths = [max(len(row[n]) for row in [header, *rows]) for n in range(len(header))]
    lines = [' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [header, *rows]]
    lines.insert(1, ' | '.join('-' * width for width in widths))
    return '\n'.join(f'| {line} |' for line in lines)


def results_table(results: Mapping[str, Results]) -> str:
    """Returns the means of each dataset as a table, and below it the images that are in no mean.

    A dataset without metrics, and a metric without any value, have `-`.
    """
    metrics = list(dict.fromkeys(metric for records in results.values() for metric in records))
    rows, notes = [], []
    for name, records in results.items():
        means = [records[metric]['mean'] if metric in records else None for metric in metrics]
        cells = ['-' if mean is None else f'{mean:.4f}' for mean in means]
        rows.append([name, str(len(records.images)) if records.images else '-', *cells])
        if records.left_out:
            notes.append(f'{name}: has no GT; left out: {", ".join(records.left_out)}')
        notes += [
            f'{name}, {metric}: {shown_exclusions(record)}' for metric, record in records.items() if record['excluded']
        ]
    return '\n'.join([text_table(['dataset', 'images', *metrics], rows), *notes])
