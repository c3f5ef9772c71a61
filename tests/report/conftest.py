"""The HTML report of three photographs, and a Chromium that opens it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import sptsr
from sptsr.images.bicubic import imresize
from sptsr.report.page import Page, Picture
from tests.conftest import photograph

if TYPE_CHECKING:
    from tests.report.browser import Look, Session

HOSTILE = '"><img src=https://example.com/x onerror="document.title=1"><script>document.title="owned"</script>'


@pytest.fixture(scope='package')
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
    Page(f'Photographs {HOSTILE}', 'SPT', 'frozen', {'niqe': 'lower'}, {'photographs': 3}).write(path, pictures)
    return path


@pytest.fixture(scope='package')
def chromium() -> Iterator[Any]:
    from selenium import webdriver  # an extra
    from selenium.webdriver.chrome.service import Service

    from tests.report.browser import CHROMIUM, DRIVER

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


@pytest.fixture
def look(chromium: Any, page: Path) -> Iterator[Look]:
    """Opens the page; afterwards nothing was written to the console, and no request left the file."""
    from tests.report.browser import Session

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
