"""The HTML report in a real Chromium: what people do with it, at a desk and with two fingers."""

from collections.abc import Iterator

import pytest
import torch

import sptsr
from sptsr.archs.spt_arch import SPTNet
from sptsr.evaluation.metrics import read_metrics
from sptsr.images.bicubic import imresize
from sptsr.images.folder import ImageFolder
from sptsr.priors.extract import build_source
from sptsr.report.page import Page, Picture
from tests.conftest import photograph
from tests.report.browser import NEEDS_CHROMIUM, ActionChains, By, Keys
from tests.report.conftest import HOSTILE

pytestmark = NEEDS_CHROMIUM

UNITS = {'PlainUnit': 'plain', 'ModulationUnit': 'SPT'}
ARMS = ['LQ', 'frozen', 'plain', 'SPT', 'GT']


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
    Page('restored', 'tuned', 'frozen').write(tmp_path / 'p.html', [Picture('coffee', arms, lq)])
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
    Page('B100', 'SPT', 'frozen', sets={'B100': 26}).write(path, pictures())
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
