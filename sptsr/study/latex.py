"""The table of a study as LaTeX: a document that compiles as it stands, with tables to paste."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Mapping, Sequence

from sptsr.study.cells import Cell, Column
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

_HEAD = r"""% Compiles as it stands: pdflatex table.tex. To paste a table into a paper: \usepackage{booktabs}.
\documentclass[10pt]{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\IfFileExists{lmodern.sty}{\usepackage{lmodern}}{}
\usepackage{booktabs}
\usepackage[a4paper,landscape,margin=15mm]{geometry}
\usepackage{graphicx}
% shrinks what is wider than the page
\newsavebox{\whole}
\newcommand{\fitted}[1]{\sbox{\whole}{#1}%
  \ifdim\wd\whole>\linewidth\resizebox{\linewidth}{!}{\usebox{\whole}}\else\usebox{\whole}\fi}
\begin{document}
"""
BREAK = r',\\'
_ROWS = 30  # of a table on one page
_SIGNS = {
    '\\': r'\textbackslash{}',
    '{': r'\{',
    '}': r'\}',
    '[': '{[}',  # else it begins an option of what stands before it: the end of a row, or an \item
    ']': '{]}',
    '$': r'\$',
    '&': r'\&',
    '#': r'\#',
    '%': r'\%',
    '_': r'\_',
    '^': r'\textasciicircum{}',
    '~': r'\textasciitilde{}',
    '<': r'\textless{}',
    '>': r'\textgreater{}',
    '|': r'\textbar{}',
    '"': r'\textquotedbl{}',
    '\N{MULTIPLICATION SIGN}': r'$\times$',
    '\N{PLUS-MINUS SIGN}': r'$\pm$',
    '\N{MINUS SIGN}': r'$-$',
    '\N{EN DASH}': '--',
    '\N{EM DASH}': '---',
    '\N{HORIZONTAL ELLIPSIS}': r'\ldots{}',
    '\N{GREEK SMALL LETTER SIGMA}': r'$\sigma$',
    '\N{LEFT SINGLE QUOTATION MARK}': '`',
    '\N{RIGHT SINGLE QUOTATION MARK}': "'",
    '\N{LEFT DOUBLE QUOTATION MARK}': '``',
    '\N{RIGHT DOUBLE QUOTATION MARK}': "''",
}


def escaped(text: str) -> str:
    """Returns text as LaTeX prints it; a letter that pdflatex does not know loses its accent, else it becomes `?`."""
    found = []
    for sign in unicodedata.normalize('NFC', text):
        if sign in _SIGNS:
            found.append(_SIGNS[sign])
        elif (sign.isascii() and sign.isprintable()) or '\u00c0' <= sign <= '\u017e':
            found.append(sign)
        else:
            plain = unicodedata.normalize('NFKD', sign).encode('ascii', 'ignore').decode()
            found.append(escaped(plain) if plain and plain.isprintable() else '?')
    return ''.join(found)


def table_latex(study: Study, blocks: Sequence[Block], notes: Sequence[str]) -> str:
    """Returns the document: the table, each arm against the control, and the notes."""
    parts = [_HEAD, rf'\section*{{{escaped(study.title)}}}', '']
    for group in groups(blocks):
        parts += _table(group)
    parts += [_legend(study), '']
    for block in blocks:
        parts += [*_against(study, block), *_parts(block)]
    if notes:
        parts += [r'\subsection*{Notes}', r'\begin{itemize}', *(rf'\item {escaped(note)}' for note in notes)]
        parts += [r'\end{itemize}', '']
    return '\n'.join([*parts, r'\end{document}', ''])


def _table(group: Sequence[Block]) -> list[str]:
    columns, higher, costs = group[0].columns, group[0].higher, cost_columns(group)
    width = len(costs) + len(columns)
    lines = [r'\begin{center}', r'\fitted{%', rf'\begin{{tabular}}{{l{"r" * width}}}', r'\toprule']
    lines += [*_head(columns, higher, costs), r'\midrule']
    for number, block in enumerate(group):
        if number:
            lines.append(r'\addlinespace')
        lines.append(rf'\multicolumn{{{width + 1}}}{{l}}{{\textit{{{escaped(block.name)}}}}} \\')
        for arm, cells in block.lines.items():
            texts = [cost_text(block.costs.get(arm), column) for column in costs]
            texts += [_cell(cells[column], column[1]) for column in columns]
            lines.append(rf'\quad {escaped(arm)} & {" & ".join(texts)} \\')
    return [*lines, r'\bottomrule', r'\end{tabular}}', r'\end{center}', '']


def _head(columns: Sequence[Column], higher: Mapping[Column, bool], costs: Sequence[str]) -> list[str]:
    """Returns three lines: datasets, rules below them, and their metrics; costs stand before them."""
    cells, rules, at = [''] * len(costs), [], 2 + len(costs)
    names = [escaped(name).replace(', ', BREAK) for name in costs]
    metrics = [rf'\begin{{tabular}}[b]{{@{{}}r@{{}}}}{name}\end{{tabular}}' for name in names]
    for dataset, group in itertools.groupby(columns, key=lambda column: column[0]):
        names = [column[1] for column in group]
        cells.append(rf'\multicolumn{{{len(names)}}}{{c}}{{{escaped(dataset)}}}')
        rules.append(rf'\cmidrule(lr){{{at}-{at + len(names) - 1}}}')
        at += len(names)
        arrows = [r'$\uparrow$' if higher[dataset, name] else r'$\downarrow$' for name in names]
        metrics += [f'{escaped(metric_name(name))} {arrow}' for name, arrow in zip(names, arrows, strict=True)]
    return [_line('', *cells), ''.join(rules), _line('', *metrics)]


def _line(*cells: str) -> str:
    return f'{" & ".join(cells)} \\\\'


def _cell(cell: Cell, metric: str) -> str:
    if cell.mean is None:
        return '--'
    text = shown(cell, metric)
    text = {'best': rf'\textbf{{{text}}}', 'second': rf'\underline{{{text}}}'}.get(cell.mark, text)
    if cell.sd is not None:
        text += rf'\,{{\scriptsize$\pm${cell.sd:.{digits(metric)}f}}}'
    if cell.published is not None:
        text += rf' {{\small\textit{{({cell.published:g})}}}}'
    return text


def _legend(study: Study) -> str:
    marks = r'in \textbf{bold}', r'\underline{underlined}', r'{\scriptsize$\pm$}', r'\textit{(Published figures)}'
    return legend(study, *marks).replace(' %', r'\,\%')


def _against(study: Study, block: Block) -> list[str]:
    rows = [_line(*map(escaped, names), *map(_minus, cells)) for names, cells in against_rows(block)]
    if not rows:
        return []
    control = escaped(study.control or '')
    head = ['set', 'metric', 'arm', 'difference', r'95\,\% interval', 'better on', '$p$', '$p$ (Holm)']
    title = rf'\subsection*{{{escaped(block.name)}: against {control}}}'
    return [title, *_long('lllrrrrr', _line(*head), rows)]


def _parts(block: Block) -> list[str]:
    if not block.parts:
        return []
    rows = []
    for names, parts in parts_rows(block):
        cells = [_minus(part).replace(' ± ', r'\,{\tiny$\pm$') for part in parts]
        rows.append(_line(*map(escaped, names), *(f'{cell}}}' if 'pm' in cell else cell for cell in cells)))
    head = _line('set', 'metric', 'arm', *PARTS)
    title = rf'\subsubsection*{{{escaped(block.name)}: where the difference lies}}'
    return [title, *_long(f'lll{"r" * len(PARTS)}', head, rows), escaped(PARTS_LEGEND), '']


def _long(columns: str, head: str, rows: Sequence[str]) -> list[str]:
    """Returns tables with the same head, as many as the rows need pages."""
    lines = []
    for start in range(0, len(rows), _ROWS):
        lines += [r'\begin{center}\fitted{%', rf'\begin{{tabular}}{{{columns}}}', r'\toprule', head, r'\midrule']
        lines += [*rows[start : start + _ROWS], r'\bottomrule', r'\end{tabular}}', r'\end{center}', '']
    return lines


def _minus(text: str) -> str:
    """Returns numbers with signs of mathematics; a hyphen between digits of an exponent stays."""
    return re.sub(r'(?<![\de])-(?=\d)', '$-$', text).replace('+', '$+$')
