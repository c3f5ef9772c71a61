"""The HTML report in a real Chromium: what people do with it, at a desk, on a phone, and in dark mode."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sptsr
from sptsr.archs.spt_arch import SPTNet
from sptsr.evaluation.metrics import read_metrics
from sptsr.images.bicubic import imresize
from sptsr.images.folder import ImageFolder
from sptsr.priors.extract import build_source
from sptsr.report.page import Picture, write_page
from tests.conftest import photograph

webdriver = pytest.importorskip('selenium.webdriver', reason='selenium is not installed')
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
DRIVER = shutil.which('chromedriver')
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason='no chromium and chromedriver on the PATH')

HOSTILE = '"><img src=https://example.com/x onerror="document.title=1"><script>document.title="owned"</script>'
UNITS = {'PlainUnit': 'plain', 'ModulationUnit': 'SPT'}
ARMS = ['LQ', 'frozen', 'plain', 'SPT', 'GT']


@pytest.fixture(scope='module')
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photographs of 160x128 with three arms, masks and figures; the last one has a hostile name."""
    pictures = []
    for number, name in enumerate(('astronaut.png', 'coffee.png', 'chelsea.png')):
        gt = photograph(name, 128, 160)
        lq = imresize(gt, 0.25)
        frozen = imresize(lq, 4)
        arms = {'frozen': frozen}
        for arm, share in (('plain', 0.25), ('SPT', 0.5 if number else -0.5)):
            arms[arm] = np.clip(frozen + share * (gt.astype(float) - frozen), 0, 255).round().astype(np.uint8)
        psnr = {
            arm: float(10 * np.log10(255**2 / np.mean((image.astype(float) - gt) ** 2))) for arm, image in arms.items()
        }
        figures = {'psnr': psnr, 'niqe': dict.fromkeys(arms, 5.0) | {'SPT': 4.0}}
        title = HOSTILE if number == 2 else name
        pictures.append(Picture(title, arms, lq, gt, sptsr.make_prior(lq, min_size=4), figures, 'photographs'))
    path = tmp_path_factory.mktemp('page') / 'report.html'
    write_page(path, f'Photographs {HOSTILE}', pictures, 'SPT', 'frozen', {'niqe': 'lower'}, {'photographs': 3})
    return path


@pytest.fixture(scope='module')
def chromium() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ('--headless=new', '--disable-gpu', '--disable-dev-shm-usage', '--window-size=1280,900'):
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument('--no-sandbox')
    options.set_capability('goog:loggingPrefs', {'performance': 'ALL', 'browser': 'ALL'})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


class Session:
    """A page in Chromium, and what its state is."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def run(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def press(self, *keys: str) -> None:
        chain = ActionChains(self.driver)
        for key in keys:
            if len(key) == 2:  # '⇧1'
                chain.key_down(Keys.SHIFT).send_keys(key[1]).key_up(Keys.SHIFT)
            else:
                chain.send_keys(key)
        chain.perform()

    def shown(self) -> dict[str, str]:
        """Which images are seen, and how each is clipped."""
        found = self.run("""
            return [...document.querySelectorAll('#stage img, #stage canvas')]
              .filter(e => getComputedStyle(e).visibility === 'visible')
              .map(e => [e.alt ?? 'map', e.style.clipPath])""")
        return dict(found)

    def width(self) -> float:
        """Of the picture, in CSS pixels."""
        return self.run("return document.querySelector('#stage img').getBoundingClientRect().width")

    def wait(self, script: str) -> None:
        WebDriverWait(self.driver, 20).until(lambda _: self.run(f'return {script}'))


Look = Callable[..., Session]


@pytest.fixture
def look(chromium: Any, page: Path) -> Iterator[Look]:
    """Opens the page; afterwards nothing was written to the console, and no request left the file."""

    opened: set[str] = set()

    def start(
        width: int = 1280, height: int = 900, dark: bool = False, mobile: bool = False, path: Path = page
    ) -> Session:
        opened.add(path.as_uri())
        metrics = {'width': width, 'height': height, 'deviceScaleFactor': 3 if mobile else 1, 'mobile': mobile}
        chromium.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', metrics)
        chromium.execute_cdp_cmd('Emulation.setTouchEmulationEnabled', {'enabled': mobile})
        scheme = {'name': 'prefers-color-scheme', 'value': 'dark' if dark else 'light'}
        chromium.execute_cdp_cmd('Emulation.setEmulatedMedia', {'features': [scheme]})
        for log in ('browser', 'performance'):
            chromium.get_log(log)  # what was there before
        chromium.get(path.as_uri())
        session = Session(chromium)
        session.wait("[...document.querySelectorAll('#stage img')].every(image => image.complete)")
        return session

    yield start
    assert [entry for entry in chromium.get_log('browser') if entry['level'] != 'DEBUG'] == []
    events = [json.loads(entry['message'])['message'] for entry in chromium.get_log('performance')]
    asked = [e['params']['request']['url'] for e in events if e['method'] == 'Network.requestWillBeSent']
    assert opened <= set(asked)
    assert [url for url in asked if url not in opened and not url.startswith('data:')] == []


def test_the_worst_picture_stands_between_frozen_and_tuned(look):
    session = look()
    assert session.find('#name').text == 'photographs: astronaut.png'
    assert session.shown().keys() == {'frozen', 'SPT'}
    assert [image.get_attribute('alt') for image in session.driver.find_elements(By.CSS_SELECTOR, '#stage img')] == [
        *ARMS,
        'masks',
    ]
    sizes = session.run(
        "return [...document.querySelectorAll('#stage img')].map(i => [i.naturalWidth, i.naturalHeight])"
    )
    assert sizes == [[160, 128]] * 6
    assert session.run("return getComputedStyle(document.querySelector('#stage img')).imageRendering") == 'pixelated'
    assert session.width() % 160 == 0  # whole screen pixels


def test_the_slider_moves_by_keys_by_the_mouse_and_by_its_line(look):
    session = look()
    before = session.shown()
    assert before['frozen'].startswith('inset(0')
    assert before['SPT'].startswith('inset(0')
    slider = session.find('#slider')
    slider.send_keys(Keys.ARROW_RIGHT * 10)
    assert session.run('return arguments[0].value', slider) == '55'
    moved = session.shown()
    assert moved['SPT'] != before['SPT']
    assert moved['frozen'] != before['frozen']
    stage = session.find('#stage')
    ActionChains(session.driver).move_to_element_with_offset(stage, -120, 20).click().perform()
    dragged = session.shown()
    assert dragged['SPT'] not in (before['SPT'], moved['SPT'])
    line = session.find('#line')
    ActionChains(session.driver).drag_and_drop_by_offset(line, 200, 0).perform()
    here = session.run('return arguments[0].value', slider)
    expected = 50 + 100 * 80 / stage.size['width']
    assert abs(float(here) - expected) < 1
    assert abs(line.location['x'] + 1 - stage.location['x'] - stage.size['width'] * float(here) / 100) < 18


def test_keys_flip_arms_in_place(look):
    session = look()
    for number, arm in enumerate(ARMS, start=1):
        session.press(str(number))
        assert arm in session.shown()
        assert session.find('#right input:checked').get_attribute('value') == arm
        assert session.find('#label-right').text.split(' · ')[0] == arm
    session.press('⇧1', '4')
    assert session.shown().keys() == {'LQ', 'SPT'}
    session.press('x')
    assert session.find('#label-left').text.split(' · ')[0] == 'SPT'
    session.press('⇧1')
    assert session.shown() == {'LQ': ''}  # the same on both sides
    session.press('9')
    assert session.shown() == {'LQ': ''}
    session.find('#right label:nth-child(3)').click()
    assert session.shown().keys() == {'LQ', 'plain'}


def test_zoom_and_pan_move_both_sides_and_the_masks_together(look):
    session = look()
    fit = session.width()
    session.find('#zoom-in').click()
    assert session.width() == 2 * fit
    boxes = session.run("""
        return [...document.querySelectorAll('#stage img, #stage canvas')].map(e => {
          const box = e.getBoundingClientRect(); return [box.x, box.y, box.width, box.height].join()})""")
    assert len(boxes) == 8
    assert len(set(boxes)) == 1
    before = session.run("return document.querySelector('#stage img').getBoundingClientRect().x")
    stage = session.find('#stage')
    ActionChains(session.driver).move_to_element_with_offset(stage, -150, 0).click_and_hold().move_by_offset(
        60, 0
    ).release().perform()
    assert session.run("return document.querySelector('#stage img').getBoundingClientRect().x") - before == 60
    stage.send_keys(Keys.ARROW_RIGHT)
    assert session.run("return document.querySelector('#stage img').getBoundingClientRect().x") - before == 20
    session.press('0')
    assert session.width() == fit
    session.run(
        """
        const box = arguments[0].getBoundingClientRect();
        arguments[0].dispatchEvent(new WheelEvent('wheel', {deltaY: -100, clientX: box.x + 9, clientY: box.y + 9}))""",
        stage,
    )
    assert session.width() > 1.3 * fit
    session.press('-', '-', '-', '-')
    assert session.width() == fit
    session.press('+' * 12)
    assert session.find('#zoom').text[1:] == '32'


def test_two_fingers_zoom_the_pictures_and_not_the_page(look):
    session = look(390, 844, mobile=True)
    fit = session.width()
    stage = session.find('#stage').rect
    x, y = stage['x'] + stage['width'] / 2, stage['y'] + stage['height'] / 2 - session.run('return scrollY')

    def touch(kind: str, spread: float) -> None:
        points = [{'x': x - spread, 'y': y, 'id': 0}, {'x': x + spread, 'y': y, 'id': 1}]
        session.driver.execute_cdp_cmd(
            'Input.dispatchTouchEvent', {'type': kind, 'touchPoints': [] if kind == 'touchEnd' else points}
        )

    touch('touchStart', 20)
    for spread in (30, 40, 60, 80):
        touch('touchMove', spread)
    touch('touchEnd', 0)
    assert abs(session.width() / fit - 4) < 0.2
    assert session.run('return visualViewport.scale') == 1
    assert session.run('return document.documentElement.scrollWidth') <= 390


def test_masks_are_switched_and_error_maps_are_painted(look):
    session = look()
    assert 'masks' not in session.shown()
    session.press('m')
    assert 'masks' in session.shown()
    session.find('#masks').click()
    assert 'masks' not in session.shown()
    session.press('e')
    session.wait("document.getElementById('stage').dataset.painted === 'error'")
    assert list(session.shown()) == ['map']
    sums = """
        return [...document.querySelectorAll('#stage canvas')].map(canvas =>
          canvas.getContext('2d').getImageData(0, 0, 160, 128).data.reduce((a, b) => a + b, 0))"""
    left, right = session.run(sums)
    assert left != right  # SPT is worse than frozen here, so its map is brighter
    assert right > left
    assert '|error| to GT' in session.find('#legend').text
    session.press('e')
    session.wait("document.getElementById('stage').dataset.painted === 'closer'")
    assert 'Blue: frozen is closer to GT' in session.find('#legend').text
    session.press('e')
    session.wait("document.getElementById('stage').dataset.painted === 'difference'")
    session.press('⇧4')  # the same arm on both sides: no difference
    session.wait("document.querySelector('#stage canvas').getContext('2d').getImageData(80, 64, 1, 1).data[0] === 0")
    session.press('e')
    assert 'map' not in session.shown()


def test_without_gt_and_figures_there_is_the_difference_of_both_sides(look, tmp_path):
    lq = imresize(photograph('coffee.png', 64, 80), 0.25)
    arms = {'frozen': imresize(lq, 4), 'tuned': imresize(lq, 4) // 2} | {
        f'{n}': imresize(lq, 4) for n in range(9, 0, -1)
    }
    write_page(tmp_path / 'p.html', 'restored', [Picture('coffee', arms, lq)], 'tuned', 'frozen')
    session = look(path=tmp_path / 'p.html')
    names = [label.text for label in session.driver.find_elements(By.CSS_SELECTOR, '#right label')]
    assert names == ['LQ 1', 'frozen 2', 'tuned 3', '9 4', '8 5', '7 6', '6 7', '5 8', '4 9', '3', '2', '1']
    assert [label.text for label in session.driver.find_elements(By.CSS_SELECTOR, '#view label')] == [
        'pictures',
        '|left \N{MINUS SIGN} right|',
    ]
    assert not session.find('#measured').is_displayed()
    assert not session.find('#masks').is_enabled()
    session.press('m', 'e')
    session.wait("document.getElementById('stage').dataset.painted === 'difference'")
    session.press('e')
    assert session.shown().keys() == {'frozen', 'tuned'}


def test_figures_have_differences_to_the_arm_that_is_chosen(look):
    session = look()

    def rows() -> dict[str, list[str]]:
        found = session.run("""
            return [...document.querySelectorAll('#figures tbody tr')].map(
              row => [...row.children].map(cell => cell.innerText))""")
        return {row[0]: [cell.replace('\n', ' ') for cell in row[1:]] for row in found}

    first = rows()
    assert list(first) == ['frozen', 'plain', 'SPT']
    assert first['SPT'][1] == '4.0000 -1.0000'
    assert session.find('#figures tr:last-child td:last-child small').get_attribute('class') == 'better'
    assert session.find('#figures tr:last-child td small').get_attribute('class') == 'worse'
    session.find('#reference option[value=plain]').click()
    assert len(rows()['frozen'][1].split()) == 2
    assert rows()['plain'][1] == '5.0000'
    assert 'better on 2 of 3' in session.find('.means').text


def test_a_hostile_name_is_text(look):
    session = look()
    session.find('#list button[data-number="2"]').click()
    titles = {session.find(f'#list button[data-number="{number}"] .name').text for number in range(3)}
    assert HOSTILE in titles
    assert session.driver.title == f'Photographs {HOSTILE}'
    assert session.find('h1').text == f'Photographs {HOSTILE}'
    assert session.run('return document.querySelectorAll("script, iframe, object").length') == 2


def test_everything_is_reached_by_the_keyboard_and_its_focus_is_seen(look):
    session = look()
    reached, unseen, unnamed = [], [], []
    for _ in range(60):
        session.press(Keys.TAB)
        name, outlined, label = session.run("""
            const e = document.activeElement, seen = e.matches('.chip input') ? e.nextElementSibling : e;
            const label = e.ariaLabel || e.textContent.trim() || e.labels?.[0]?.textContent.trim();
            return [e.id || e.name || e.className || e.dataset.number || e.tagName,
                    parseFloat(getComputedStyle(seen).outlineWidth) >= 2, label]""")
        if name == 'BODY':
            break
        reached.append(name)
        unseen += [] if outlined else [name]
        unnamed += [] if label else [name]
    wanted = ('next', 'stage', 'slider', 'left', 'right', 'view', 'masks', 'zoom-out', 'zoom-in', 'fit', 'reference')
    assert set(wanted) <= set(reached)
    assert {'SUMMARY', 'scroll'} <= set(reached)
    assert (unseen, unnamed) == ([], [])
    session.find('#next').send_keys(Keys.ENTER)
    session.press('n')
    assert session.find('#list button[aria-current]').get_attribute('data-number') == '2'
    session.press('p', 'p', 'p')
    assert session.find('#list button[aria-current]').get_attribute('data-number') == '0'


@pytest.mark.parametrize('width', [320, 390, 768, 1280])
@pytest.mark.parametrize('dark', [False, True])
def test_it_fits_a_phone_and_is_legible_in_both_schemes(look, width, dark):
    mobile = width < 700
    session = look(width, 844, dark, mobile)
    assert session.run('return document.documentElement.scrollWidth') <= width
    assert session.run('return visualViewport.scale') == 1
    stage = session.find('#stage').rect
    assert stage['x'] >= 0
    assert stage['x'] + stage['width'] <= width
    contrasts = session.run(CONTRASTS)
    assert len(contrasts) > 40
    assert [found for found in contrasts if found[1] < 4.5] == []
    ground = session.run('return getComputedStyle(document.body).backgroundColor')
    assert ground == ('rgb(21, 23, 26)' if dark else 'rgb(255, 255, 255)')
    if mobile:
        session.run("document.getElementById('masks').click()")
        assert 'masks' in session.shown()


@pytest.mark.data
@pytest.mark.slow
def test_a_page_of_b100_with_three_arms_and_human_masks(look, real_data, tmp_path):
    folder, names = real_data / 'bsds500/segmentations', real_data / 'bsds500_of_b100.json'
    source = build_source('labels', [f'dir={folder}', f'names={names}'])
    gt, lq = (ImageFolder(real_data / 'sr/BSD100' / folder) for folder in ('GTx4', 'LRx4'))
    weights = str(real_data / 'weights/IMDN_x4.pth')
    nets = {unit: SPTNet({'type': 'IMDN', 'upscale': 4}, weights, unit={'type': unit}) for unit in UNITS}
    torch.manual_seed(0)
    with torch.no_grad():  # as after some iterations: small changes everywhere
        for net in nets.values():
            for parameter in net.units.parameters():
                parameter.add_(0.005 * torch.randn_like(parameter))
    psnr = read_metrics({'psnr': {'type': 'calculate_psnr', 'crop_border': 4, 'test_y_channel': True}})[0]

    def pictures() -> Iterator[Picture]:
        for key in lq.keys[:26]:
            image, reference = lq.read(key), gt.read(key)
            prior = source(image, key, 64)
            with nets['ModulationUnit'].units_off():
                arms = {'frozen': sptsr.restore(nets['ModulationUnit'], image)}
            arms |= {name: sptsr.restore(nets[unit], image, prior) for unit, name in UNITS.items()}
            values = {arm: psnr.measure(arms[arm][:, :, ::-1], reference[:, :, ::-1]) for arm in arms}
            yield Picture(key, arms, image, reference, prior, {'psnr': values}, 'B100')

    path = tmp_path / 'report.html'
    write_page(path, 'B100', pictures(), 'SPT', 'frozen', sets={'B100': 26})
    assert 10_000_000 < path.stat().st_size <= 20_000_000
    session = look(path=path)
    assert len(session.driver.find_elements(By.CSS_SELECTOR, '#list button')) == 24
    assert [image.get_attribute('alt') for image in session.driver.find_elements(By.CSS_SELECTOR, '#stage img')] == [
        *ARMS,
        'masks',
    ]
    for _ in range(23):
        session.press('n')
        session.wait(
            "[...document.querySelectorAll('#stage img')].every(image => image.complete && image.naturalWidth)"
        )
        sizes = session.run("return [...document.querySelectorAll('#stage img')].map(i => i.naturalWidth)")
        assert len(set(sizes)) == 1
    assert session.find('#list button[aria-current]').get_attribute('data-number') == '23'
    frozen = session.find('.means tbody tr:nth-child(2) td').text
    assert 25 < float(frozen) < 29


# Text and its contrast to the ground below it (WCAG 2.1, "contrast ratio"), of all elements that hold text themselves.
CONTRASTS = """
const channel = value => value / 255 <= .04045 ? value / 255 / 12.92 : ((value / 255 + .055) / 1.055) ** 2.4;
const rgba = text => text.match(/[\\d.]+/g).map(Number);
const luminance = ([r, g, b]) => .2126 * channel(r) + .7152 * channel(g) + .0722 * channel(b);
const ground = element => {
  for (let e = element; e; e = e.parentElement) {
    const colour = rgba(getComputedStyle(e).backgroundColor);
    if (colour.length === 3 || colour[3] > .5) return colour;
  }
  return [255, 255, 255];
};
return [...document.querySelectorAll('body *')].filter(e =>
  !e.matches('script, noscript, option, :disabled, :disabled + *, .label, :disabled + * *') && e.checkVisibility()
  && [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())).map(e => {
    const [a, b] = [luminance(rgba(getComputedStyle(e).color)), luminance(ground(e))].sort((x, y) => y - x);
    return [e.tagName + ' ' + e.textContent.trim().slice(0, 30), (a + .05) / (b + .05)];
  });
"""
