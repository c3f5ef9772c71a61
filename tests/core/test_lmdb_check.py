"""An LMDB that is cut off or changed is refused before it is mapped; a whole one, also while it is written, is read."""

import random
import shutil
from pathlib import Path

import lmdb
import pytest

from sptsr.core.errors import UserError
from sptsr.core.lmdb_check import DamagedError, check_lmdb
from sptsr.priors.store import PriorStore, PriorWriter

OLD = Path(__file__).parents[1] / 'old' / '0.1' / 'set' / 'prior'
PAGE = 4096


@pytest.mark.parametrize('length', [0, 1, 99, PAGE - 1, PAGE, *range(2 * PAGE, 10 * PAGE, PAGE), 10 * PAGE - 1])
def test_a_store_that_is_cut_off(length: int):
    shutil.copytree(OLD, 'store')
    path = Path('store/data.mdb')
    assert path.stat().st_size == 10 * PAGE
    path.write_bytes(path.read_bytes()[:length])
    header = PriorStore(OLD).header
    with pytest.raises(UserError, match='^store: not a (readable LMDB|prior store)'):
        PriorStore('store')
    if length:  # an empty file is a store that was only begun
        with pytest.raises(UserError, match='^store: not a readable LMDB'):
            PriorWriter('store', header)


def test_stores_of_every_shape_are_whole(tmp_path: Path):
    rng = random.Random(0)
    environment = lmdb.open(str(tmp_path), map_size=1 << 28, max_dbs=4)
    entries = environment.open_db(b'entries')
    path = str(tmp_path / 'data.mdb')
    depths = set()
    for _ in range(60):
        with environment.begin(write=True, db=entries) as transaction:
            for _ in range(rng.randint(1, 60)):
                key = b'image/%05d' % rng.randint(0, 3000)
                if rng.random() < 0.4:
                    transaction.delete(key)
                else:
                    transaction.put(key, bytes(rng.choice([0, 10, 500, 2500, 9000])))
            depths.add(transaction.stat(entries)['depth'])
        check_lmdb(path)
    assert max(depths) >= 2
    environment.close()
    with open(path, 'r+b') as file:
        file.truncate(file.seek(0, 2) // 2)
    with pytest.raises(DamagedError, match='is missing'):
        check_lmdb(path)
