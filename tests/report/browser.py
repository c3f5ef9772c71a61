"""A page in Chromium, for the tests of the HTML report; the fixture `look` (conftest.py) opens it."""

import shutil
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip('selenium.webdriver', reason='selenium is not installed')
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
DRIVER = shutil.which('chromedriver')
NEEDS_CHROMIUM = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason='no chromium and chromedriver on the PATH')


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
