"""Names made by a template from an option file: `{}` and nothing else is replaced."""

from __future__ import annotations

from sptsr.core.errors import UserError


def check_template(template: str, what: str, whose: str = "the GT's") -> None:
    """Raises UserError unless `{}` occurs exactly once and no other brace does.

    `str.format` would also look up attributes (`{0.__init__}`) and make texts of any length (`{:999999999}`).

    Args:
        template: such as `{}x4`.
        what: what to call it in a message.
        whose: name it stands for.
    """
    rest = template.replace('{}', '', 1)
    if rest == template or '{' in rest or '}' in rest or '\0' in rest:
        raise UserError(f'{what}: {template!r} must hold {{}} once, for {whose} name, and no other braces: {{}}x4')


def fill_template(template: str, name: str) -> str:
    """Returns the name that a checked template makes of another name."""
    return template.replace('{}', name)
