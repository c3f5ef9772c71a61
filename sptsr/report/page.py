"""The HTML report: one file with pictures to compare, figures and means, that loads nothing from anywhere."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from sptsr.core.errors import UserError
from sptsr.core.files import write_bytes
from sptsr.evaluation.records import plain_number
from sptsr.images.decode import RGB, decode_rgb
from sptsr.masks.prior import Prior
from sptsr.report.crops import difference, packed_window
from sptsr.report.page_file import means_table, page_html
from sptsr.report.picks import Picks

BUDGET = 20_000_000
LQ, FROZEN, TUNED, GT = 'LQ', 'frozen', 'tuned', 'GT'  # names of images
_SHOWN = 24  # pictures on a page
_CHANGES = {'worst': 'largest change', 'best': 'smallest change', 'random': 'random'}
_SPARE = 1000  # bytes of a picture's names and numbers

Image = RGB | str | os.PathLike[str]


@dataclass(frozen=True)
class Picture:
    """One image of a test, as the arms restored it.

    Images are uint8 [H, W, 3], RGB, or paths of image files, which are read only when the picture is among those shown.

    Attributes:
        name: of the image.
        arms: restored images by the name of the arm, in the order of the keys 1-9, all of one size.
        lq: the degraded image, [H / scale, W / scale, 3]; None leaves it out.
        gt: the ground truth; None, or another size than the arms', leaves it out.
        prior: masks of the LQ image, or None.
        figures: {metric: {arm: value}}; infinite values and NaN count in no mean.
        set: name of the test set.
    """

    name: str
    arms: Mapping[str, Image]
    lq: Image | None = None
    gt: Image | None = None
    prior: Prior | None = None
    figures: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    set: str = ''


class _Rank(NamedTuple):
    """Where a picture stands.

    Attributes:
        value: low values are bad.
        shown: what people see of it.
        text: what it is.
        groups: what the first, the last and random pictures are called.
    """

    value: float
    shown: str
    text: str
    groups: Mapping[str, str] = {'worst': 'worst', 'best': 'best', 'random': 'random'}


class Page:
    """Collects the pictures of a report, and writes it.

    Of the pictures that are added the worst, the best and some at random are kept, packed. What is needed in memory is
    about the size of the file and, for the means, the figures of all images.

    Pictures are ordered by what `tuned` gains over `reference` in the first metric that has both; without `reference`
    by the figure of `tuned`; without figures by how far both arms differ, the largest difference first.

    Args:
        title: of the page.
        tuned: the arm that the page is about.
        reference: the arm that others are compared with, the frozen network or a control; None without one.
        better: {metric: 'higher' or 'lower'}; 'higher' where nothing is said.
        sets: {set: number of its images} where they are known; each set then has its share of the page.
        about: what else to say below the title.
        budget_bytes: largest size of the file.
    """

    def __init__(
        self,
        title: str,
        tuned: str,
        reference: str | None = None,
        better: Mapping[str, str] | None = None,
        sets: Mapping[str, int] | None = None,
        about: str = '',
        budget_bytes: int = BUDGET,
    ) -> None:
        self.title, self.tuned, self.reference, self.about = title, tuned, reference, about
        self.better = dict(better or {})
        self.budget = budget_bytes
        self.by_set = bool(sets)
        self.picks = {name: Picks(quota) for name, quota in _quotas(sets or {'': _SHOWN}).items()}
        self.figures: dict[str, dict[str, list[Mapping[str, float]]]] = {}
        self.order: _Rank | None = None
        shown = max(1, sum(picks.quota for picks in self.picks.values()))
        self.room = (budget_bytes - len(self._html([])) - _SPARE) // shown - _SPARE

    def add(self, picture: Picture) -> None:
        """Takes a picture.

        Raises:
            UserError: an image file that cannot be read.
            ValueError: arms of different sizes.
        """
        of_set = self.figures.setdefault(picture.set, {})
        for metric, values in picture.figures.items():
            of_set.setdefault(metric, []).append(dict(values))
        arms = {} if picture.figures else _read_arms(picture)
        rank = self._rank(picture, arms)
        self.order = self.order or rank
        picks = self.picks[picture.set if self.by_set else '']
        number = picks.admit(picture.name, rank and rank.value)
        if number is not None:
            picks.kept[number] = self._card(picture, arms or _read_arms(picture), rank)

    def write(self, path: str | os.PathLike[str], pictures: Iterable[Picture] = ()) -> None:
        """Writes the page; where the smallest windows are too large for the budget, the last pictures are left out.

        Args:
            path: of the file.
            pictures: are taken first, one after the other, as `add` takes them.
        """
        for picture in pictures:
            self.add(picture)
        labels = self.order.groups if self.order else {}
        rows = [
            [{**card, 'group': labels.get(group, group)} for group, card in picks.in_order()]
            for picks in self.picks.values()
        ]
        while len(content := self._html([card for row in rows for card in row])) > self.budget and any(rows):
            max(rows, key=len).pop()
        write_bytes(path, content)

    def _rank(self, picture: Picture, arms: Mapping[str, RGB]) -> _Rank | None:
        for metric, values in picture.figures.items():
            sign = -1 if self.better.get(metric) == 'lower' else 1
            value = values.get(self.tuned, math.nan)
            if self.reference is None:
                rank = _Rank(sign * value, f'{value:.4f}', f'{metric} of {self.tuned}')
            else:
                other = values.get(self.reference, math.nan)
                value = 0.0 if value == other else value - other  # both are infinite where both images are the GT
                rank = _Rank(sign * value, f'{value:+.4f}', f'{metric} of {self.tuned} less that of {self.reference}')
            if not math.isnan(value):
                return rank
        pair = [arms[arm] for arm in (self.tuned, self.reference) if arm is not None and arm in arms]
        if len(pair) == 2:
            change = float(difference(pair).mean())
            text = f'the mean difference of {self.tuned} and {self.reference}, of 255'
            return _Rank(-change, f'{change:.2f}', text, _CHANGES)
        return None

    def _card(self, picture: Picture, arms: dict[str, RGB], rank: _Rank | None) -> dict[str, Any]:
        """Returns what the page holds of a picture."""
        images = dict(arms)
        first = next(iter(images.values()))
        gt = None if picture.gt is None else _read(picture.gt)
        if gt is not None and gt.shape == first.shape:
            images[GT] = gt
        lq = None if picture.lq is None else _read(picture.lq)
        # with one arm, where it differs from the GT
        change = difference(list((arms if len(arms) > 1 else images).values()))
        window, packed, masks = packed_window(images, lq, LQ, picture.prior, self.room, change)
        figures = {
            metric: {arm: plain_number(float(value)) for arm, value in values.items()}
            for metric, values in picture.figures.items()
        }
        return {
            'name': picture.name,
            'set': picture.set,
            'whole': [first.shape[1], first.shape[0]],
            'corner': [window.left, window.top],
            'size': [window.width, window.height],
            'arms': list(packed),  # a browser does not keep the order of names that are numbers
            'images': packed,
            'masks': masks,
            'figures': figures,
            'rank': rank and rank.shown,
        }

    def _html(self, cards: list[dict[str, Any]]) -> bytes:
        seen = sum(picks.seen for picks in self.picks.values())
        shown = f'{len(cards)} of {seen} images' if len(cards) < seen else f'{seen} images'
        order = f', sorted by {self.order.text}' if self.order else ''
        data = {'gt': GT, 'tuned': self.tuned, 'reference': self.reference, 'better': self.better, 'pictures': cards}
        about = f'{self.about} {shown}{order}.'.strip()
        return page_html(self.title, about, data, means_table(self.figures, self.reference, self.better)).encode()


def _quotas(sets: Mapping[str, int]) -> dict[str, int]:
    """Returns how many pictures each set shows: equal shares, 3 or more; what a small set leaves goes to the others."""
    quotas, left = dict.fromkeys(sets, 0), _SHOWN
    for number, name in enumerate(sorted(sets, key=lambda name: sets[name])):
        quotas[name] = min(sets[name], max(3, left // (len(sets) - number)))
        left -= quotas[name]
    return quotas


def _read_arms(picture: Picture) -> dict[str, RGB]:
    arms = {name: _read(image) for name, image in picture.arms.items()}
    if len({image.shape for image in arms.values()}) != 1:
        raise ValueError(f'{picture.name}: the arms are of different sizes: {[i.shape for i in arms.values()]}')
    return arms


def _read(image: Image) -> RGB:
    if not isinstance(image, str | os.PathLike):
        return image
    try:
        return decode_rgb(Path(image).read_bytes(), str(image), to_rgb=True)
    except OSError as error:
        raise UserError(f'{image}: cannot read it ({error.strerror}); check the path') from error
