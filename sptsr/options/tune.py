"""Ways to tune a network (`network_g.tune`), and which keys belong to which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from sptsr.core.errors import one_of

# adapter: units between the blocks of the frozen backbone. lora: LoRA in its blocks. adapter+lora: both.
# all: every weight of the backbone. bias: its biases and normalisation layers.
Tune = Literal['adapter', 'adapter+lora', 'all', 'lora', 'bias']
WAYS: tuple[Tune, ...] = ('adapter', 'adapter+lora', 'all', 'lora', 'bias')
WITH_UNITS: tuple[Tune, ...] = ('adapter', 'adapter+lora')
WITH_LORA: tuple[Tune, ...] = ('lora', 'adapter+lora')
RANK = 4
RANKS = (1, 256)
_OF_LORA = ('rank', 'lora_sites')
# Keys of `network_g` that play no part in a way.
_UNUSED = {
    'adapter': _OF_LORA,
    'adapter+lora': (),
    'all': ('sites', 'unit', 'num_masks', *_OF_LORA),
    'lora': ('unit', 'num_masks', 'lora_sites'),
    'bias': ('sites', 'unit', 'num_masks', *_OF_LORA),
}
_WHY = {
    'rank': 'only tune: lora and adapter+lora have a rank',
    'lora_sites': 'only tune: adapter+lora has LoRA at other sites than those of the units',
    'sites': 'tune: {} has no sites',
}


def tune_problems(section: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Lists what is wrong with `tune` and `rank` of an `SPTNet`, and which keys make no sense with them.

    Args:
        section: `network_g`; keys that are not given are not in it. Types are not looked at.

    Returns:
        (key, message).
    """
    tune = section.get('tune', 'adapter')
    if not isinstance(tune, str):
        return []
    if tune not in WAYS:
        hint = '; the backbone alone is tested without an SPTNet' if tune == 'none' else one_of(tune, WAYS)
        return [('tune', f"tune: there is no way '{tune}'{hint}")]
    problems = [
        (key, f'{key}: {_WHY.get(key, "tune: {} has no units and uses no masks").format(tune)}; remove it')
        for key in _UNUSED[tune]
        if key in section
    ]
    rank = section.get('rank', RANK)
    low, high = RANKS
    if tune in WITH_LORA and isinstance(rank, int) and not low <= rank <= high:
        problems.append(('rank', f'rank: {rank} is not in {low}..{high}'))
    return problems


def tuned_as(section: Mapping[str, Any], tune: Tune, rank: int | None = None) -> dict[str, Any]:
    """Returns a `network_g` section that is tuned in another way, without the keys that play no part in it."""
    kept = {key: value for key, value in section.items() if key not in ('tune', 'rank', *_UNUSED[tune])}
    return {**kept, 'tune': tune, **({} if rank is None else {'rank': rank})}
