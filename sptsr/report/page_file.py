"""The file of an HTML report: template, style and script of this folder, data as JSON, and the table of means."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from sptsr.core.version import __version__
from sptsr.evaluation.statistics import half_width

# {set: {metric: [{arm: value}]}}, a list entry for each image
AllFigures = Mapping[str, Mapping[str, Sequence[Mapping[str, float]]]]


_MARK = '<meta name="generator" content="sptsr '  # of page.html


def is_page(path: Path) -> bool:
    """Returns whether a file is a report that sptsr wrote."""
    with open(path, 'rb') as file:
        return _MARK.encode() in file.read(1000)


def page_html(title: str, about: str, data: Mapping[str, Any], means: str = '') -> str:
    """Returns the file.

    What comes from names and files is escaped, and the page's policy allows no script or style but its own two, and no
    address but `data:`.

    Args:
        title, about: plain text.
        data: what the script of the page reads.
        means: HTML.
    """
    style, script = _part('page.css'), _part('page.js')
    values = {
        'version': __version__,
        'title': text(title),
        'about': text(about),
        'style': style,
        'style_digest': _digest(style),
        'script': script,
        'script_digest': _digest(script),
        'data': script_json(data),
        'means': means,
    }
    return re.sub(r'\{\{(\w+)\}\}', lambda match: values[match[1]], _part('page.html'))


def script_json(value: Any) -> str:
    """Returns JSON in ASCII that can stand inside a script element: no `<`, `>` or `&`."""
    plain = json.dumps(value, allow_nan=False)
    return plain.replace('<', '\\u003c').replace('>', '\\u003e').replace('&', '\\u0026')


def text(value: str) -> str:
    """Returns a text as HTML; what is no Unicode (names of files that are not UTF-8) becomes `?`."""
    return html.escape(value.encode(errors='replace').decode())


def means_table(figures: AllFigures, reference: str | None, better: Mapping[str, str]) -> str:
    """Returns the means of all images as HTML, with the differences to `reference`, paired by image.

    A difference has the half width of its 95 % interval over images, and on how many of them the arm is better.
    """
    metrics = list(dict.fromkeys(metric for of_set in figures.values() for metric in of_set))
    if not metrics:
        return ''
    head = ''.join(
        f'<th scope="col">{text(metric)} {"↓" if better.get(metric) == "lower" else "↑"}</th>' for metric in metrics
    )
    bodies = []
    for name, of_set in figures.items():
        arms = dict.fromkeys(arm for rows in of_set.values() for row in rows for arm in row)
        lines = [f'<tr><th scope="rowgroup" colspan="{len(metrics) + 1}">{text(name)}</th></tr>'] if name else []
        for arm in arms:
            cells = [_mean(of_set.get(metric, ()), arm, reference, better.get(metric) == 'lower') for metric in metrics]
            lines.append(f'<tr><th scope="row">{text(arm)}</th>{"".join(cells)}</tr>')
        bodies.append(f'<tbody>{"".join(lines)}</tbody>')
    versus = '' if reference is None else f'Differences to {text(reference)}: mean ± half width of its 95 % interval.'
    return (
        f'<h2>Means of all images</h2><p class="quiet">{versus}</p>'
        '<div class="scroll" role="region" aria-label="Means of all images" tabindex="0"><table>'
        f'<thead><tr><td></td>{head}</tr></thead>{"".join(bodies)}</table></div>'
    )


def _mean(rows: Sequence[Mapping[str, float]], arm: str, reference: str | None, lower: bool) -> str:
    values = [row[arm] for row in rows if arm in row]
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return '<td>-</td>'
    notes = [] if len(finite) == len(values) else [f'{len(values) - len(finite)} of {len(values)} left out']
    base = arm if reference is None else reference
    gains = [row[arm] - row[base] for row in rows if arm in row and base in row]
    gains = [gain for gain in gains if math.isfinite(gain)]
    if gains and arm != base:
        half = half_width(gains)
        notes.insert(0, f'{math.fsum(gains) / len(gains):+.4f}' + ('' if half is None else f' ± {half:.4f}'))
        wins = sum(gain < 0 if lower else gain > 0 for gain in gains)
        notes.insert(1, f'better on {wins} of {len(gains)}')
    small = ''.join(f'<small>{note}</small>' for note in notes)
    return f'<td>{math.fsum(finite) / len(finite):.4f}{small}</td>'


def _part(name: str) -> str:
    return files('sptsr.report').joinpath(name).read_text('utf-8')


def _digest(content: str) -> str:
    """Returns a source of the page's policy that allows this very content (CSP level 2, 4.2)."""
    return 'sha256-' + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
