"""Figures for papers: what they show, and that equal data give equal bytes."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from sptsr.core.errors import UserError
from sptsr.images.bicubic import imresize
from sptsr.images.decode import decode_rgb
from sptsr.masks.prior import Prior
from sptsr.report.figures import COLUMN, PALETTE, Point, mean_curve, write_curves, write_scatter
from sptsr.report.scalars import Curve, read_curves
from sptsr.report.strips import Shown, most_different, write_strips
from tests.conftest import photograph, run_cli

CLOSE = [Point(f'network {n}', 400 + 3 * n, 28.0 + 0.01 * n, f'network {n}') for n in range(6)]


def _texts(svg: str) -> list[str]:
    return [re.sub(r'<[^>]+>', '', text) for text in re.findall(r'<text[^>]*>(.*?)</text>', svg, re.DOTALL)]


def test_the_scatter_has_its_labels_as_text(tmp_path: Path):
    points = [*CLOSE, Point('full', 40_000, 28.4, 'full', spread=0.02)]
    paths = write_scatter(points, tmp_path / 'a', 'parameters (K)', 'PSNR on Set5 (dB)')
    assert [path.name for path in paths] == ['a.pdf', 'a.svg']
    texts = _texts(paths[1].read_text())
    for wanted in ('parameters (K)', 'PSNR on Set5 (dB)', *(point.label for point in points)):
        assert texts.count(wanted) == 1, wanted
    pdf = paths[0].read_bytes()
    assert b'/FontFile2' in pdf  # TrueType
    assert b'/Type3' not in pdf
    assert f'{COLUMN * 72:g}' in re.search(rb'/MediaBox \[(.*?)\]', pdf)[1].decode()  # type: ignore[index]
    again = write_scatter(points, tmp_path / 'b', 'parameters (K)', 'PSNR on Set5 (dB)')
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in paths]


@pytest.mark.parametrize('points', [CLOSE, [Point(f'arm {n}', 5, 30, f'arm {n}') for n in range(5)], CLOSE[:1]])
def test_labels_do_not_cover_each_other(points: list, monkeypatch: pytest.MonkeyPatch):
    from matplotlib.figure import Figure

    boxes = []

    def note(figure, *_, **__):
        renderer = figure.canvas.get_renderer()
        boxes[:] = [t.get_window_extent(renderer) for t in figure.axes[0].texts if t.get_text()]
        frame = figure.bbox
        assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in boxes)

    monkeypatch.setattr(Figure, 'savefig', note)
    write_scatter(points, 'a', 'x', 'y')
    assert len(boxes) == len(points)
    assert not any(one.overlaps(other) for n, one in enumerate(boxes) for other in boxes[:n])


def test_series_of_several_points_have_a_legend(tmp_path: Path):
    points = [Point(name, x, y, arm) for arm, y in (('_SPT', 28.1), ('plain', 28)) for name, x in (('A', 4), ('B', 9))]
    texts = _texts(write_scatter(points, tmp_path / 'a', 'x', 'y')[1].read_text())
    assert [texts.count(word) for word in (' _SPT', 'plain', 'A', 'B')] == [1, 1, 1, 1]


def test_colours_are_told_apart_by_the_colour_blind():
    """Machado et al., "A Physiologically-based Model for Simulation of Color Vision Deficiency" (2009), severity 1."""
    views = [
        np.eye(3),
        np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
        np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
    ]
    colours = np.array([[int(code[n : n + 2], 16) / 255 for n in (1, 3, 5)] for code in PALETTE])
    for view in views:
        seen = (colours**2.2 @ view.T).clip(0, 1) ** (1 / 2.2)
        distances = np.linalg.norm(seen[:, None] - seen[None], axis=2)[np.triu_indices(len(PALETTE), 1)]
        assert distances.min() > 0.1


def test_curves_of_arms_and_seeds(tmp_path: Path):
    runs = [Curve((10, 20, 30), (1.0, 2.0, 4.0)), Curve((10, 30), (3.0, 2.0))]
    assert mean_curve(runs) == ([10, 30], [2.0, 3.0])
    paths = write_curves({'SPT': runs, 'a $x_{ b$': [Curve((10, 20), (1.0, 1.5))]}, tmp_path / 'c', 'PSNR (dB)')
    texts = _texts(paths[1].read_text())
    assert {'SPT', 'a $x_{ b$', 'iteration', 'PSNR (dB)'} <= set(texts)  # no formula


def test_curves_come_from_tensorboard_else_from_the_log(here: Path):
    done = run_cli('train', '-opt', 'train.yml', '--force_yml', 'logger:use_tb_logger=true', 'logger:print_freq=1')
    assert done.returncode == 0, done.stderr
    boards = read_curves('experiments/tiny', 'tb_logger/tiny')
    logged = read_curves('experiments/tiny')
    assert {'losses/l_pix', 'lr'} <= set(boards)
    assert set(logged) == {'losses/l_pix'}
    assert logged['losses/l_pix'].steps == boards['losses/l_pix'].steps == (1, 2, 3, 4, 5, 6)
    assert np.allclose(logged['losses/l_pix'].values, boards['losses/l_pix'].values, rtol=1e-3)
    (log,) = Path('experiments/tiny').glob('train_*.log')
    text = log.read_text()
    log.write_text(text[: text.rindex('l_pix: ') + len('l_pix: 5.0930e-')])  # a kill while the line was written
    assert read_curves('experiments/tiny')['losses/l_pix'].steps == (1, 2, 3, 4, 5)
    log.write_text(text[: text.rindex('l_pix: ') + len('l_pix: 5.0930')])
    assert read_curves('experiments/tiny')['losses/l_pix'].steps == (1, 2, 3, 4, 5)
    with pytest.raises(UserError, match='no log of a training run'):
        read_curves('set')


def _shown(name: str, spot: tuple[int, int] | None, strength: int = 40) -> Shown:
    gt = photograph('coffee.png', 96, 128)
    lq = imresize(gt, 1 / 4)
    arms = {'frozen': gt.copy(), 'SPT': gt.copy()}
    if spot is not None:
        top, left = spot
        part = arms['SPT'][top : top + 12, left : left + 12]
        part[:] = 255 - part if strength > 100 else part + np.uint8(strength) * (part < 200)
    masks = np.zeros((2, *lq.shape[:2]), bool)
    masks[0, :10], masks[1, 5:, 8:] = True, True
    return Shown(name, lq, arms, gt, Prior.encode(masks), {'SPT': '28.10 dB'})


@pytest.mark.parametrize('spot', [(4, 4), (40, 100), (84, 60)])
def test_the_crop_is_where_the_arms_differ_most(spot: tuple[int, int]):
    ((_, window),) = most_different([_shown('a', spot)], side=32)
    assert window.top <= spot[0] <= window.top + window.height - 12
    assert window.left <= spot[1] <= window.left + window.width - 12
    assert (window.top % 4, window.left % 4, window.height, window.width) == (0, 0, 32, 32)


def test_the_images_that_differ_most_come_first(tmp_path: Path):
    images = [_shown('none', None), _shown('little', (10, 10), 10), _shown('much', (50, 60), 200)]
    chosen = most_different(images, 2, 32)
    assert [shown.name for shown, _ in chosen] == ['much', 'little']
    path = write_strips(chosen, tmp_path / 'strip', dpi=200)
    assert path.name == 'strip.png'
    picture = decode_rgb(path.read_bytes(), 'strip', to_rgb=True)
    assert picture.shape[1] == round(6.9 * 200)
    # the crop of GT is in it as it is, enlarged by repetition
    place = chosen[0][1]
    colours = np.unique(
        chosen[0][0].gt[place.top : place.top + 32, place.left : place.left + 32].reshape(-1, 3), axis=0
    )
    seen = {tuple(colour) for colour in np.unique(picture.reshape(-1, 3), axis=0)}
    assert np.mean([tuple(colour) in seen for colour in colours]) > 0.95


def test_nothing_is_drawn_without_matplotlib(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
    with pytest.raises(UserError, match=r"need matplotlib; pip install 'sptsr\[figures\]'"):
        write_scatter(CLOSE, 'a', 'x', 'y')
    assert not list(Path().iterdir())


def test_an_import_of_the_package_brings_no_matplotlib():
    source = Path(sys.modules['sptsr.report.figures'].__file__ or '').read_text()
    assert not re.search(r'^(import|from) matplotlib', source, re.MULTILINE)
