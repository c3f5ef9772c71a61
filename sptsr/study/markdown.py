"""The table of a study as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from sptsr.report.tables import markdown_table
from sptsr.study.cells import Cell
from sptsr.study.results import PARTS, Block
from sptsr.study.study_file import Study
from sptsr.study.texts import (
    PARTS_LEGEND,
    against_rows,
    cost_columns,
    cost_text,
    digits,
    groups,
    legend,
    metric_name,
    parts_rows,
    shown,
)

_ARROWS = {True: '↑', False: '↓'}


def table_markdown(study: Study, blocks: Sequence[Block], notes: Sequence[str]) -> str:
    """Returns the whole page: the table, each arm against the control, and what has to be said of both."""
    lines = [f'# {_plain(study.title)}', '']
    for group in groups(blocks):
        arrows = group[0].higher
        heads = [
            f'{_plain(set_)} {_plain(metric_name(name))} {_ARROWS[arrows[set_, name]]}'
            for set_, name in group[0].columns
        ]
        costs = cost_columns(group)
        header = ['', '', *costs, *heads]
        rows = []
        for block in group:
            for number, (arm, cells) in enumerate(block.lines.items()):
                texts = [_cell_markdown(cells[column], column[1]) for column in block.columns]
                paid = [cost_text(block.costs.get(arm), column) for column in costs]
                rows.append([f'**{_plain(block.name)}**' if number == 0 else '', _plain(arm), *paid, *texts])
        lines += [markdown_table(header, rows), '']
    lines += [legend(study, '**bold**', '<u>underlined</u>', '±', '*(Published figures)*'), '']
    for block in blocks:
        lines += _against_markdown(study, block)
    if notes:
        lines += ['## Notes', '', *(f'- {_plain(note)}' for note in notes), '']
    return '\n'.join(lines)


def _plain(text: str) -> str:
    """Returns text whose signs mean nothing in Markdown."""
    for sign in '\\`*_[]<>|#':
        text = text.replace(sign, f'\\{sign}')
    return text


def _cell_markdown(cell: Cell, metric: str) -> str:
    text = shown(cell, metric)
    text = {'best': f'**{text}**', 'second': f'<u>{text}</u>'}.get(cell.mark, text)
    if cell.sd is not None:
        text += f' <sub>± {cell.sd:.{digits(metric)}f}</sub>'
    if cell.published is not None:
        text += f' *({cell.published:g})*'
    return text


def _against_markdown(study: Study, block: Block) -> list[str]:
    rows = [[*map(_plain, names), *cells] for names, cells in against_rows(block)]
    if not rows:
        return []
    header = [
        'set',
        'metric',
        'arm',
        'difference',
        '95 % interval',
        'better on',
        'p',
        'p (Holm)',
    ]
    title = f'## {_plain(block.name)}: against {_plain(study.control or "")}'
    return [title, '', markdown_table(header, rows), '', *_parts_markdown(block)]


def _parts_markdown(block: Block) -> list[str]:
    if not block.parts:
        return []
    rows = [[*map(_plain, names), *cells] for names, cells in parts_rows(block)]
    title = f'### {_plain(block.name)}: where the difference lies'
    return [title, '', markdown_table(['set', 'metric', 'arm', *PARTS], rows), '', PARTS_LEGEND, '']
