"""A tiny study on photographs: two option files, their stores, and a study file over them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import base_options, write_options


@pytest.fixture
def study(photographs: Path, tiny_weights: Path, tmp_path: Path) -> dict[str, Any]:
    """Content of a good study file, to be changed by a test; its option files lie in the test's folder."""
    for name in ('train', 'test'):
        options = base_options(photographs, trains=name == 'train')
        options['network_g']['backbone_weights'] = str(tiny_weights)
        write_options(tmp_path / 'options' / f'{name}.yml', options)
    return {
        'title': 'Tiny',
        'base': {'train': 'options/train.yml', 'test': 'options/test.yml'},
        'seeds': [0, 1],
        'rows': {'IMDN': {}},
        'arms': {
            'frozen': {'tune': 'none'},
            'plain': {'network_g': {'unit': {'type': 'PlainUnit', 'width': 8}}},
            'SPT': {},
            'masks of other images': {'prior': 'shuffle'},
        },
        'control': 'plain',
    }


def write_study(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / 'study.yml'
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path
