"""The sets of option files: their names, and which of them a test measures."""

from pathlib import Path

import pytest
import yaml

from sptsr.core.distributed import Ranks
from sptsr.core.errors import UserError
from sptsr.options.load import load_options
from sptsr.tuning.startup import eval_loaders
from tests.conftest import base_options, write_options


def test_two_sets_of_one_name_are_refused(here):
    options = yaml.safe_load(Path('test.yml').read_text())
    options['datasets']['test_2'] = dict(options['datasets']['test'])
    Path('twice.yml').write_text(yaml.safe_dump(options))
    with pytest.raises(UserError, match=r"test_2.name: 'photographs' is the name of datasets.test too; rename one"):
        load_options('twice.yml', False)


def test_a_test_leaves_out_the_training_set(photographs: Path, tmp_path: Path):
    """It gives random crops."""
    opt = base_options(photographs, trains=False)
    data = base_options(photographs, trains=True)['datasets']['train']
    opt['datasets'] = {'train': {**data, 'name': 'cuts'}, **opt['datasets']}
    options = load_options(write_options(tmp_path / 'x.yml', opt), False, tmp_path)
    assert [loader.dataset.opt['name'] for loader in eval_loaders(options.opt, Ranks())] == ['photographs']
    opt['datasets'] = {'train': data}
    options = load_options(write_options(tmp_path / 'x.yml', opt), False, tmp_path)
    with pytest.raises(UserError, match='a test needs a set besides train; add val or test'):
        eval_loaders(options.opt, Ranks())


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ('datasets:test:name=../evil', r"datasets\.test\.name: '\.\./evil' cannot be a folder's name"),
        ('datasets:test:name=..', r"datasets\.test\.name: '\.\.' cannot be a folder's name"),
        ('val:suffix=../x', r"val\.suffix: '\.\./x' ends a file's name; take out /"),
        ('val:bands={photograps: x}', r"val\.bands: no set is called 'photograps'; did you mean 'photographs'\?"),
    ],
)
def test_names_that_lead_elsewhere_or_nowhere(here, change: str, message: str):
    with pytest.raises(UserError, match=message):
        load_options('test.yml', False, force=[change])
