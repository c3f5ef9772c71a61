"""Makes one prior store of a study, as a step of its own: `python -m sptsr.study.make_store STORE.order.json`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sptsr.core.errors import UserError
from sptsr.core.files import read_json, write_json
from sptsr.core.homes import expanded
from sptsr.study.drafts import name_and_arguments


def main(words: Sequence[str]) -> int:
    """Follows the order in a file; returns 2 after a mistake, in one line."""
    try:
        make_store(read_json(words[0], 'run sptsr table again'))
    except UserError as error:
        print(f'sptsr: {error}', file=sys.stderr)
        return 2
    return 0


def make_store(order: Mapping[str, Any]) -> None:
    """Makes or completes a store, and then writes beside it that it is complete.

    Args:
        order: of a `sptsr.study.stores.Recipe`. It has the path of the `store`, the `record` of what it is, the options
            of the `set` that it is for, with the `plugins` of these, and its `kind`: `source`, with the section of the
            `source` and the number of noisy `draws` of each image; or `shuffle`, `random` or `oracle`, with a `seed`
            and the store that it is made `of`.

    Raises:
        UserError: whatever the source or a store refuses.
    """
    path = Path(order['store'])
    note = path.with_name(f'{path.name}.json')
    if note.is_file() and path.exists():
        return
    if order['plugins']:
        from sptsr.core.registry import import_plugins, register_all

        register_all()
        import_plugins(list(order['plugins']))
    _MAKERS[order['kind']](order, path)
    write_json(note, order['record'])


def _of_source(order: Mapping[str, Any], path: Path) -> None:
    from sptsr.priors.extract import extract, make_source

    name, arguments = name_and_arguments(order['source'])
    source = make_source(name, arguments, 'prior')
    extract(_lq_images(order['set'], order['draws'], path, source.sees_image), path, source)


def _shuffle(order: Mapping[str, Any], path: Path) -> None:
    from sptsr.priors.controls import shuffle

    shuffle(_store(order), path, order['seed'])


def _random(order: Mapping[str, Any], path: Path) -> None:
    from sptsr.priors.controls import random_like
    from sptsr.priors.extract import make_source

    store = _store(order)
    random_like(store, path, make_source('random', {'like': str(store.path), 'seed': order['seed']}, 'prior'))


def _oracle(order: Mapping[str, Any], path: Path) -> None:
    from sptsr.priors.controls import oracle_like
    from sptsr.priors.extract import make_source

    store = _store(order)
    name, arguments = _source_of(store, order['source'])
    gt, names = _gt_images(order['set'])
    oracle_like(store, path, make_source(name, arguments, 'prior: oracle'), gt, names)


_MAKERS = {'source': _of_source, 'shuffle': _shuffle, 'random': _random, 'oracle': _oracle}


def _store(order: Mapping[str, Any]) -> Any:
    from sptsr.priors.store import PriorStore

    return PriorStore(Path(expanded(order['of'])))


def _lq_images(data: Mapping[str, Any], draws: int, path: Path, sees_image: bool) -> Any:
    """Returns the images of a set that a source makes masks from; noisy ones are made, beside the store."""
    from sptsr.images.chain import DegradationChain
    from sptsr.images.degrade import degrade
    from sptsr.images.draws import Degradation
    from sptsr.images.folder import ImageFolder

    if 'dataroot_lq' in data:
        return ImageFolder(Path(expanded(data['dataroot_lq'])), _to_rgb(data))
    clean = _clean_images(data)
    seed, gray = int(data.get('noise_seed', 0)), bool(data.get('gray', False))
    steps = data.get('degradation')
    chain = None if steps is None else DegradationChain.of(steps, seed, draws, gray)
    if not sees_image and (chain is None or chain.scale == 1):
        return clean
    made = path.with_name(f'{path.name}-images')
    if chain is not None:
        degrade(clean, made, chain)
    else:
        levels = data['sigma'] if isinstance(data['sigma'], list) else [data['sigma'], data['sigma']]
        degrade(clean, made, Degradation('noise', float(levels[0]), float(levels[1]), seed, draws, gray))
    return ImageFolder(made)


def _clean_images(data: Mapping[str, Any]) -> Any:
    """Returns the GT images of a set."""
    from sptsr.images.folder import ImageFolder

    include = [str(glob) for glob in data.get('include') or ()]
    return ImageFolder(Path(expanded(data['dataroot_gt'])), _to_rgb(data), include)


def _to_rgb(data: Mapping[str, Any]) -> bool:
    return bool(data.get('to_rgb') or data.get('gray') or data.get('color'))


def _gt_images(data: Mapping[str, Any]) -> tuple[Any, dict[str, str]]:
    """Returns the GT images of a set, and their keys by keys of its LQ images."""
    from sptsr.core.registry import register_all
    from sptsr.data.checked import open_dataset

    gt = _clean_images(data)
    if 'dataroot_lq' not in data:
        return gt, {}
    register_all()
    # which belongs to which depends neither on the scale nor on the store, which is yet to be made
    section = {key: value for key, value in data.items() if key != 'dataroot_prior'}
    pairs = getattr(open_dataset({**section, 'phase': 'test', 'scale': 1}), 'pairs', None)
    if pairs is None:
        raise UserError(
            f'prior: oracle: {data["type"]} does not say which GT belongs to which LQ; use PriorPairedImageDataset'
        )
    return gt, {lq: key for key, lq in pairs}


def _source_of(store: Any, source: Mapping[str, Any] | None) -> tuple[str, dict[str, Any]]:
    """Returns name and arguments of the source of a row, from the study, else from the store's header."""
    if source is not None:
        return name_and_arguments(source)
    from sptsr.core.registry import SOURCE_REGISTRY, lookup, register_all
    from sptsr.core.signatures import argument_problems, parameters

    register_all()
    name, arguments = store.header.source, dict(store.header.params)
    known = parameters(lookup(SOURCE_REGISTRY, name))
    # a header names no folder and no checkpoint
    if store.header.weights_sha256 or 'dir' in known or argument_problems(known, arguments, name):
        raise UserError(
            f'prior: oracle: {store.path} does not say where the files of its source {name} are; '
            f'say prior: {{source: {name}, ...}} of the row'
        )
    return name, arguments


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
