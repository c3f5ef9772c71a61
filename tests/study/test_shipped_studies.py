"""The studies that are shipped: all they say is right, for a user who has all sets and weights, and for one without."""

from pathlib import Path

import pytest
import yaml

from sptsr.core.errors import UserError
from sptsr.study.cases import make_cases
from sptsr.study.study_file import read_study

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / 'options' / 'studies').glob('*.yml'))
STUDIES = [*SHIPPED, *sorted((ROOT / 'docs' / 'results').rglob('study.yml'))]  # those that results name, too


@pytest.fixture(autouse=True)
def examples(tmp_path: Path):
    """The tests run in an empty folder; the files of units and networks that studies name are in every clone."""
    (tmp_path / 'examples').symlink_to(ROOT / 'examples')


def _paths(value: object, key: str = '') -> set[tuple[str, bool]]:
    """Files (False) and folders (True) that options name."""
    if isinstance(value, dict):
        return {path for name, inner in value.items() for path in _paths(inner, name)}
    if isinstance(value, str) and (key == 'backbone_weights' or value.startswith('weights/')):
        return {(value, False)}
    return {(value, True)} if isinstance(value, str) and key.startswith('dataroot_') else set()


def _provide(folder: Path) -> int:
    """Makes empty files and folders of all names in the shipped option files and studies."""
    found = set()
    for file in [*(ROOT / 'options').rglob('*.yml'), *STUDIES]:
        found |= _paths(yaml.safe_load(file.read_text()))
    for path, is_folder in found:
        if is_folder:
            (folder / path).mkdir(parents=True, exist_ok=True)
        else:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).touch()
    return len(found)


@pytest.mark.parametrize('path', STUDIES, ids=[f'{path.parent.name}/{path.stem}' for path in STUDIES])
def test_all_rows_and_arms_are_right(path, tmp_path):
    assert _provide(tmp_path) > 20
    study = read_study(path)
    found = make_cases(study)
    assert found.left_out == ()
    assert len(found.cases) == len(study.rows) * len(study.arms)
    for case in found.cases:
        if case.train is not None:
            total = case.train['train']['total_iter']
            assert sum(case.train['train']['scheduler']['periods']) >= total
            assert case.train['datasets']['train']['gt_size'] % case.train['scale'] == 0
        assert case.test['scale'] == (case.train or case.test)['scale']


@pytest.mark.parametrize('path', STUDIES, ids=[f'{path.parent.name}/{path.stem}' for path in STUDIES])
def test_who_has_nothing_is_told_what_is_missing(path, tmp_path):
    with pytest.raises(UserError, match=r'nothing is left to run; datasets/README.md says more(.|\n)* is not there'):
        make_cases(read_study(path))


def test_there_are_the_studies_that_the_docs_name():
    names = {path.stem for path in SHIPPED}
    assert names == {'smoke', 'fair_controls', 'sr', 'denoising', 'ablations', 'efficiency'}
