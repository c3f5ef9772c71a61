from collections import Counter
from pathlib import Path

import pytest
import torch
from basicsr.data import build_dataset

from sptsr.core.distributed import Ranks
from sptsr.core.errors import UserError, unwrapped
from sptsr.data.loader import SeededIndex, TrainStream, eval_loader, train_loader
from sptsr.masks.batch import PriorBatch
from tests.data.test_paired import _options


def _flat(stream: TrainStream) -> list[tuple[int, int]]:
    return [(int(i), i.seed) for batch in stream for i in batch]


@pytest.mark.parametrize(('length', 'batch', 'stop'), [(10, 4, 30), (3, 8, 5), (7, 7, 3), (1, 1, 4)])
def test_exactly_the_iterations_asked_for_and_every_image_each_epoch(length: int, batch: int, stop: int):
    """Stock drop_last stops a run of 30 at 22, and a batch larger than the set makes none."""
    stream = TrainStream(length, batch, 0, 0, stop)
    batches = list(stream)
    assert len(batches) == len(stream) == stop
    assert all(len(b) == batch for b in batches)
    indices = [i for i, _ in _flat(stream)]
    for epoch in range(len(indices) // length):
        assert sorted(indices[epoch * length : (epoch + 1) * length]) == list(range(length))


def test_a_resumed_stream_is_the_tail_of_the_whole_one():
    whole = list(TrainStream(13, 4, 5, 0, 40))
    for start in (1, 3, 17, 39, 40):
        tail = list(TrainStream(13, 4, 5, start, 40))
        assert [[(int(i), i.seed) for i in b] for b in tail] == [[(int(i), i.seed) for i in b] for b in whole[start:]]


def test_seeds_differ_per_sample_epoch_and_run():
    """Stock workers draw the same crops every epoch."""
    samples = _flat(TrainStream(5, 5, 0, 0, 50))
    assert len({seed for _, seed in samples}) == 250
    assert not {s for _, s in samples} & {s for _, s in _flat(TrainStream(5, 5, 1, 0, 50))}
    orders = {tuple(i for i, _ in samples[k : k + 5]) for k in range(0, 250, 5)}
    assert len(orders) > 20


def test_ranks_share_the_stream_of_one_process():
    ranks = [list(TrainStream(11, 3, 2, 0, 12, Ranks(rank, 2))) for rank in (0, 1)]
    joined = [[*a, *b] for a, b in zip(*ranks, strict=True)]
    single = list(TrainStream(11, 6, 2, 0, 12))
    assert [[(int(i), i.seed) for i in b] for b in joined] == [[(int(i), i.seed) for i in b] for b in single]
    assert Counter(i for b in joined for i in map(int, b)).most_common()[0][1] <= 7


@pytest.mark.parametrize('workers', [0, 2])
def test_batches_do_not_depend_on_workers(photographs: Path, workers: int):
    opt = _options(photographs, num_worker_per_gpu=workers)
    dataset = build_dataset(opt)
    stream = TrainStream(len(dataset), 3, 7, 0, 5)
    batches = list(train_loader(dataset, opt, stream))
    reference = [dataset[SeededIndex(int(i), i.seed)]['lq'] for b in stream for i in b]
    assert torch.equal(torch.cat([b['lq'] for b in batches]), torch.stack(reference))
    assert isinstance(batches[0]['prior'], PriorBatch)
    assert batches[0]['prior'].expand(64).shape == (3, 64, 16, 16)


def test_a_test_set_is_the_same_with_workers(photographs: Path):
    found = []
    for workers in (0, 2):
        dataset = build_dataset({**_options(photographs, num_worker_per_gpu=workers), 'phase': 'test'})
        loader = eval_loader(dataset)
        assert loader.num_workers == workers
        found += [list(loader), list(loader)]  # the same workers serve every validation
    shares = [list(eval_loader(dataset, Ranks(rank, 2))) for rank in (0, 1)]
    found.append([batch for pair in zip(*shares, strict=True) for batch in pair])
    for batches in found:
        assert [batch['key'] for batch in batches] == [[key] for key in ('astronaut', 'chelsea', 'coffee', 'rocket')]
        for batch, other in zip(batches, found[0], strict=True):
            assert torch.equal(batch['lq'], other['lq'])
            assert torch.equal(batch['gt'], other['gt'])
            assert torch.equal(batch['prior'].expand(64), other['prior'].expand(64))


@pytest.mark.parametrize('workers', [0, 1])
def test_a_bad_file_ends_the_loader_with_its_name(photographs: Path, tmp_path: Path, workers: int):
    """Stock prefetchers hang for ever on a dataset's exception."""
    import shutil

    shutil.copytree(photographs, tmp_path / 'set')
    opt = _options(tmp_path / 'set', num_worker_per_gpu=workers, batch_size_per_gpu=4)
    dataset = build_dataset(opt)
    (tmp_path / 'set' / 'GTx4' / 'coffee.png').write_bytes(b'junk')
    with pytest.raises(UserError) as caught:
        list(train_loader(dataset, opt, TrainStream(4, 4, 0, 0, 2)))
    message = str(unwrapped(caught.value))
    assert 'coffee.png: not a readable image (corrupt' in message
    assert message.endswith('; copy or make it again')
    assert '\n' not in message


def test_a_stock_dataset_draws_by_the_samples_seed(photographs: Path):
    opt = {**_options(photographs), 'type': 'PairedImageDataset', 'io_backend': {'type': 'disk'}}
    opt.pop('dataroot_prior')
    dataset = build_dataset(opt)
    runs = [list(train_loader(dataset, opt, TrainStream(4, 2, 0, 0, 6))) for _ in range(2)]
    assert all(torch.equal(a['lq'], b['lq']) for a, b in zip(*runs, strict=True))
    assert runs[0][0]['prior'] is None
    assert not torch.equal(runs[0][0]['lq'], runs[0][2]['lq'])
