"""Tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sptsr.evaluation.evaluate import Results


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Returns a plain table: the first `left` columns to the left, the others to the right."""
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
    """Returns a Markdown table, columns padded so that it can be read as it is."""
    widths = [max(len(row[n]) for row in [header, *rows]) for n in range(len(header))]
    lines = [' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [header, *rows]]
    lines.insert(1, ' | '.join('-' * width for width in widths))
    return '\n'.join(f'| {line} |' for line in lines)


def results_table(results: Mapping[str, Results]) -> str:
    """Returns the means of each dataset as a table; a dataset without metrics says so."""
    metrics = list(dict.fromkeys(metric for record in results.values() for metric in record))
    rows = []
    for name, record in results.items():
        count = len(next(iter(record.values()))['per_image']) if record else 0
        values = [f'{record[metric]["mean"]:.4f}' if metric in record else '-' for metric in metrics]
        rows.append([name, str(count) if record else '-', *values])
    return text_table(['dataset', 'images', *metrics], rows)
