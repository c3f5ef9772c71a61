"""The HTML report in a real Chromium: by the keyboard, on a phone, in dark mode."""

import pytest

from tests.report.browser import NEEDS_CHROMIUM, Keys

pytestmark = NEEDS_CHROMIUM


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
