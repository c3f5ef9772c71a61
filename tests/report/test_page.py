"""The HTML report as a file: what it holds, how large it is, and that names from files cannot do anything."""

import base64
import dataclasses
import functools
import hashlib
import html
import io
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sptsr
from sptsr.evaluation.metrics import read_metrics
from sptsr.evaluation.records import Results, add_means, metrics_json
from sptsr.images.bicubic import imresize
from sptsr.images.decode import write_png
from sptsr.report.crops import Window, difference, enlarged, overlay, window_of
from sptsr.report.page import GT, LQ, Page, Picture
from sptsr.report.pictures import mask_colours
from tests import conftest

NAMES = ('astronaut.png', 'coffee.png', 'chelsea.png', 'rocket.jpg')
HOSTILE = '"><script>document.title="owned"</script><img src=x onerror=alert(1)>{{data}}</script><!--\udcff&amp;\u2028'


photograph = functools.cache(conftest.photograph)


def picture(number: int, gain: float, size: tuple[int, int] = (96, 128), **changes: object) -> Picture:
    """A photograph whose arm `SPT` differs from `frozen` in one corner, with figures."""
    gt = photograph(NAMES[number % 4], *size)
    frozen = imresize(imresize(gt, 0.25), 4)
    tuned = frozen.copy()
    tuned[-32:, -40:] = gt[-32:, -40:]
    given = {
        'name': f'image {number}',
        'arms': {'frozen': frozen, 'SPT': tuned},
        'lq': imresize(gt, 0.25),
        'gt': gt,
        'figures': {'psnr': {'frozen': 30.0, 'SPT': 30.0 + gain}, 'niqe': {'frozen': 5.0, 'SPT': 5.0 - gain}},
        'set': 'photographs',
    }
    return Picture(**(given | changes))


def data_of(path: Path) -> dict:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.DOTALL)
    return json.loads(text)


def pixels(address: str) -> np.ndarray:
    kind, _, content = address.partition(',')
    assert kind == 'data:image/webp;base64'
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


def test_the_page_holds_the_very_pixels_and_the_figures_of_metrics_json(tmp_path):
    one = picture(0, -0.1234567890123)
    Page('A title', 'SPT', 'frozen', {'niqe': 'lower'}).write(tmp_path / 'page.html', [one])
    (card,) = data_of(tmp_path / 'page.html')['pictures']
    assert (card['size'], card['whole'], card['corner']) == ([128, 96], [128, 96], [0, 0])
    assert list(card['images']) == [LQ, 'frozen', 'SPT', GT]
    for arm, expected in {**one.arms, LQ: imresize(one.lq, 4), GT: one.gt}.items():
        assert (pixels(card['images'][arm]) == expected).all(), arm
    measured = read_metrics({'psnr': {'type': 'calculate_psnr', 'crop_border': 0}})
    records = Results({'psnr': {'per_image': {one.name: one.figures['psnr']['SPT']}, 'excluded': {}}})
    add_means(records, measured)
    written = json.dumps(metrics_json('x', 'y', {'photographs': records}, {}))
    text = json.dumps(one.figures['psnr']['SPT'])
    assert text in written
    assert text in (tmp_path / 'page.html').read_text()
    assert json.dumps(card['figures']['psnr']['SPT']) == text


def test_means_are_of_finite_figures_and_paired(tmp_path):
    gains = [0.5, -0.1, 0.2, math.inf, math.nan]
    Page('t', 'SPT', 'frozen').write(tmp_path / 'page.html', [picture(n, gain) for n, gain in enumerate(gains)])
    means = (tmp_path / 'page.html').read_text().partition('<section class="means">')[2]
    assert '<td>30.0000</td>' in means
    assert '<td>30.2000<small>+0.2000 ± 0.7452</small><small>better on 2 of 3</small>' in means
    assert '<small>2 of 5 left out</small>' in means
    figures = {card['name']: card['figures'] for card in data_of(tmp_path / 'page.html')['pictures']}
    assert figures['image 3']['psnr']['SPT'] == 'inf'
    assert figures['image 4']['psnr']['SPT'] == 'nan'


def test_the_worst_come_first_then_the_best_then_the_same_random_ones(tmp_path):
    gains = np.random.default_rng(1).permutation(np.arange(60) - 20).tolist()
    small = {'size': (32, 40)}
    pages = []
    for run in range(2):
        path = tmp_path / f'{run}.html'
        pictures = (picture(n, gain, **small) for n, gain in enumerate(gains))
        Page('t', 'SPT', 'frozen', sets={'photographs': 60}).write(path, pictures)
        pages.append(path.read_bytes())
    assert pages[0] == pages[1]
    cards = data_of(tmp_path / '0.html')['pictures']
    assert [card['group'] for card in cards] == ['worst'] * 12 + ['best'] * 6 + ['random'] * 6
    assert [card['rank'] for card in cards[:12]] == [f'{gain:+.4f}' for gain in range(-20, -8)]
    assert [card['rank'] for card in cards[12:18]] == [f'{gain:+.4f}' for gain in range(39, 33, -1)]
    assert len({card['name'] for card in cards}) == 24


def test_of_a_metric_that_is_better_when_lower_the_highest_are_the_worst(tmp_path):
    pictures = [picture(n, 0, (32, 40), figures={'niqe': {'frozen': 5.0, 'SPT': 5.0 + n}}) for n in range(3)]
    Page('t', 'SPT', 'frozen', {'niqe': 'lower'}).write(tmp_path / 'page.html', pictures)
    assert [card['name'] for card in data_of(tmp_path / 'page.html')['pictures']] == ['image 2', 'image 1', 'image 0']


def test_the_first_metric_counts_where_it_is_infinite(tmp_path):
    psnr = {'a': (math.inf, 60.0), 'b': (30.0, 29.9), 'c': (math.inf, math.inf)}
    figures = {
        name: {'psnr': {'frozen': frozen, 'SPT': tuned}, 'ssim': {'frozen': 1.0, 'SPT': 0.99}}
        for name, (frozen, tuned) in psnr.items()
    }
    pictures = [picture(n, 0, (32, 40), name=name, figures=each) for n, (name, each) in enumerate(figures.items())]
    Page('t', 'SPT', 'frozen').write(tmp_path / 'page.html', pictures)
    cards = data_of(tmp_path / 'page.html')['pictures']
    assert [(card['name'], card['rank']) for card in cards] == [('a', '-inf'), ('b', '-0.1000'), ('c', '+0.0000')]
    assert 'sorted by psnr of SPT less that of frozen' in (tmp_path / 'page.html').read_text()


def test_without_figures_what_changed_most_comes_first(tmp_path):
    pictures = [picture(n, 0, figures={}) for n in range(3)]
    pictures[1].arms['SPT'][:] = 255 - pictures[1].arms['frozen']
    Page('t', 'SPT', 'frozen').write(tmp_path / 'page.html', pictures)
    assert data_of(tmp_path / 'page.html')['pictures'][0]['name'] == 'image 1'
    assert 'sorted by the mean difference of SPT and frozen' in (tmp_path / 'page.html').read_text()
    assert 'Means' not in (tmp_path / 'page.html').read_text()


@pytest.mark.parametrize('budget', [2_000_000, 400_000, 120_000])
def test_the_file_keeps_within_its_budget_by_windows_where_arms_differ(tmp_path, budget):
    pictures = (picture(n, n / 10, (256, 320)) for n in range(30))
    Page('t', 'SPT', 'frozen', budget_bytes=budget).write(tmp_path / 'page.html', pictures)
    size = (tmp_path / 'page.html').stat().st_size
    assert budget / 3 < size <= budget
    cards = data_of(tmp_path / 'page.html')['pictures']
    assert len(cards) == 24 or budget == 120_000
    for card in cards:
        assert card['corner'][0] % 4 == card['corner'][1] % 4 == 0
        corner, side = np.array(card['corner']), np.array(card['size'])
        assert (corner + side > (300, 240)).all()  # the changed corner
        one = picture(int(card['name'].split()[1]), 0, (256, 320))
        window = Window(*corner[::-1], *side[::-1])
        assert (pixels(card['images']['SPT']) == window.of(one.arms['SPT'])).all()
        assert (pixels(card['images'][LQ]) == window.of(imresize(one.lq, 4))).all()


def test_each_set_has_its_share_and_what_a_small_one_leaves(tmp_path):
    page = Page('t', 'SPT', 'frozen', sets={'a': 30, 'b': 30, 'c': 2})
    for name, count in (('a', 30), ('b', 30), ('c', 2)):
        for n in range(count):
            page.add(picture(n, n if name == 'a' else 100 + n, (32, 40), set=name))
    page.write(tmp_path / 'page.html')
    sets = [card['set'] for card in data_of(tmp_path / 'page.html')['pictures']]
    assert sets == ['a'] * 11 + ['b'] * 11 + ['c'] * 2


def test_files_of_pictures_that_are_not_shown_are_not_read_and_nothing_piles_up(tmp_path):
    one = picture(0, 0, (32, 40))
    write_png(tmp_path / 'frozen.png', one.arms['frozen'])
    write_png(tmp_path / 'tuned.png', one.arms['SPT'])
    there = {'frozen': tmp_path / 'frozen.png', 'SPT': str(tmp_path / 'tuned.png')}
    page = Page('t', 'SPT', 'frozen', sets={'photographs': 500})
    for n in range(24):
        page.add(picture(n, [-5.0, 5.0][n % 2], (32, 40), arms=there, name=f'{n}'))
    faults = []
    for n in range(200):  # between the worst and the best: only random ones are read
        try:
            page.add(picture(n, 0.0, (32, 40), arms=dict.fromkeys(there, tmp_path / 'gone.png'), name=f'more {n}'))
        except sptsr.UserError as error:
            faults.append(str(error))
    assert 0 < len(faults) < 100
    assert all('gone.png: cannot read it' in fault for fault in faults)
    (picks,) = page.picks.values()
    assert len(picks.kept) <= 24 + 12 + 6


def test_names_from_files_are_text(tmp_path):
    arms = picture(0, 0).arms
    hostile = picture(
        0, 0.1, name=HOSTILE, set=HOSTILE, arms={f'frozen{HOSTILE}': arms['frozen'], f'SPT{HOSTILE}': arms['SPT']},
        figures={f'psnr{HOSTILE}': {f'frozen{HOSTILE}': 1.0, f'SPT{HOSTILE}': 2.0}},
    )  # fmt: skip
    path = tmp_path / 'page.html'
    Page(HOSTILE, f'SPT{HOSTILE}', f'frozen{HOSTILE}', about=HOSTILE).write(path, [hostile])
    content = path.read_text()
    assert content.count('<script') == content.count('</script') == 2
    assert '<img' not in content.partition('<script>')[0]
    assert 'owned"</script' not in content
    card = data_of(path)['pictures'][0]
    assert card['name'] == HOSTILE
    shown = re.search(r'<h1>(.*?)</h1>', content, re.DOTALL)
    assert html.unescape(shown[1]) == HOSTILE.replace('\udcff', '?')


def test_the_policy_allows_the_own_script_and_style_and_nothing_from_elsewhere(tmp_path):
    Page('t', 'SPT', 'frozen').write(tmp_path / 'page.html', [picture(0, 0.1)])
    content = (tmp_path / 'page.html').read_text()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', content)
    assert policy.startswith("default-src 'none'; img-src data:; style-src ")
    assert 'unsafe' not in policy
    for tag in ('style', 'script'):
        (part,) = re.findall(rf'<{tag}>(.*?)</{tag}>', content, re.DOTALL)
        assert base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() in policy
    assert not re.search(r'https?://|\bfetch\(|XMLHttpRequest|innerHTML|<link [^>]*href="(?!data:,")', content)


def test_a_window_is_where_the_change_is_and_in_the_middle_without_one():
    change = np.zeros((60, 100), np.uint8)
    assert window_of(change, 1024, 4) == Window(12, 32, 32, 32)
    change[5:15, 80:96] = 9
    found = window_of(change, 1024, 4)
    assert found.top <= 5 <= 15 <= found.top + 32
    assert found.left <= 80 <= 96 <= found.left + 32
    assert window_of(change, 10**6, 4) == Window(0, 0, 60, 100)
    assert window_of(np.zeros((3, 500), np.uint8), 1024, 1) == Window(0, 79, 3, 341)
    first, second = photograph('coffee.png', 8, 9), photograph('chelsea.png', 8, 9)
    expected = np.abs(first.astype(int) - second).max(axis=2)
    assert (difference([first, second]) == expected).all()


@pytest.mark.parametrize('scale', [1, 2, 3, 4])
def test_bicubic_and_masks_of_a_window_are_those_of_the_image(scale):
    lq = photograph('coffee.png', 40, 51)
    prior = sptsr.make_prior(lq, min_size=4)
    whole = imresize(lq, scale)
    entire = overlay(prior, Window(0, 0, 40 * scale, 51 * scale), scale)
    for top, left, height, width in ((0, 0, 40, 51), (8, 12, 20, 24), (20, 31, 20, 20), (0, 7, 3, 5)):
        window = Window(top * scale, left * scale, height * scale, width * scale)
        assert (enlarged(lq, window, scale) == window.of(whole)).all()
        painted, expected = overlay(prior, window, scale), window.of(entire)
        assert (painted[1:, 1:] == expected[1:, 1:]).all()  # an outline does not begin at the window's border
    smallest = np.where(prior.decode(), np.arange(1, prior.count + 1)[:, None, None], 0).max(axis=0)
    inside = (entire[::scale, ::scale, 3] == 115) & (smallest > 0)
    assert inside.sum() > 100
    assert (entire[::scale, ::scale, :3][inside] == mask_colours(64)[smallest[inside] - 1]).all()


@pytest.mark.parametrize(('scale', 'fine'), [(4, 4), (4, 2), (2, 3), (1, 2)])
def test_masks_on_a_finer_grid_are_shown_as_fine_as_the_restored_image(scale, fine):
    large = sptsr.make_prior(photograph('coffee.png', 20 * fine, 24 * fine), min_size=4)
    prior = dataclasses.replace(large, fine=fine)
    assert prior.size == (20, 24)
    window = Window(4 * scale, 8 * scale, 12 * scale, 16 * scale)
    painted = overlay(prior, window, scale)
    assert painted.shape == (12 * scale, 16 * scale, 4)
    rows, columns = (((np.arange(side * scale) + 0.5) * fine / scale).astype(int) for side in prior.size)
    smallest = np.where(large.decode(), np.arange(1, large.count + 1)[:, None, None], 0).max(axis=0)
    expected = window.of(smallest[rows][:, columns])
    inside = painted[:, :, 3] == 115
    assert inside.sum() > 40
    assert (painted[inside][:, :3] == mask_colours(64)[expected[inside] - 1]).all()


def test_arms_of_other_sizes_are_a_fault_and_a_gt_of_another_size_is_left_out(tmp_path):
    page = Page('t', 'SPT', 'frozen')
    with pytest.raises(ValueError, match='different sizes'):
        page.add(picture(0, 0, arms={'frozen': photograph('coffee.png', 8, 8), 'SPT': photograph('coffee.png', 8, 9)}))
    page.add(picture(1, 0, gt=photograph('coffee.png', 100, 128)))
    page.write(tmp_path / 'page.html')
    assert list(data_of(tmp_path / 'page.html')['pictures'][0]['images']) == [LQ, 'frozen', 'SPT']


def test_a_page_without_pictures_is_a_page(tmp_path):
    Page('t', 'SPT').write(tmp_path / 'page.html')
    assert data_of(tmp_path / 'page.html')['pictures'] == []


@pytest.mark.parametrize('size', [(4, 20_000), (20_000, 4)])
def test_a_long_image_is_shown_as_far_as_webp_reaches(tmp_path, size):
    change = np.zeros(size, np.uint8)
    change[-1, -1] = 255
    window = window_of(change, size[0] * size[1], 4)
    assert max(window.height, window.width) == 16_380
    assert (window.top + window.height, window.left + window.width) == size
    image = np.zeros((*size, 3), np.uint8)
    page = Page('long', 'SPT', 'frozen', sets={'': 1})
    page.add(Picture('a', {'frozen': image, 'SPT': image + 1}, None))
    page.write(tmp_path / 'page.html')
    assert (tmp_path / 'page.html').stat().st_size > 0
