"""The masks that `sptsr restore` gives to a network: of a store, or made on the way by the source of the training."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sptsr.core.errors import UserError

if TYPE_CHECKING:
    from sptsr.archs.spt_arch import SPTNet
    from sptsr.images.decode import RGB
    from sptsr.masks.prior import Prior
    from sptsr.priors.sources.source import Source
    from sptsr.priors.store_header import StoreHeader
    from sptsr.restoring.folder_run import Masks

# Sources that look something up for each image, so they know nothing of other images.
_NEED_FILES = ('labels', 'random')
# What an adapter says of the header of its store.
_OF_HEADER = ('source', 'params', 'weights_sha256', 'max_masks', 'fine')
# Parameters that say where masks of these images lie: others for each set.
_PLACES = ('dir', 'like')


@dataclasses.dataclass(frozen=True)
class MasksOf:
    """What gives the masks of images.

    Attributes:
        make: makes those of an image; None where the network uses none.
        described: what decides the masks of all images, JSON values.
        digest: of those of an image, by its key, where others may be described alike; else None.
    """

    make: Masks | None = None
    described: Any = None
    digest: Callable[[str], str] | None = None


def masks_of(
    options: argparse.Namespace, net: SPTNet, images: Mapping[str, Path], sigma: float | str | None
) -> MasksOf:
    """Returns what gives the masks of images (see `find_images`); `sigma` is the noise level that the network is told.

    Raises:
        UserError: a source that cannot be built, or a store that lacks an image.
    """
    if not net.uses_masks:
        if options.source or options.prior or options.params or options.through:
            text = 'sptsr: this network uses no masks; --source, --set, --prior and --through play no part'
            print(text, file=sys.stderr)
        return MasksOf()
    known = net.trained_with.get('prior') or {}
    if options.prior:
        return _of_store(options.prior, images, known)
    from sptsr.core.yaml_io import read_settings
    from sptsr.priors.extract import make_source

    source = make_source(*_chosen_source(options, net.trained_with, read_settings(options.params, '--set')), '--set')
    params = known.get('params') or {}
    record = params.get('through')
    if options.through or (source.sees_image and record):
        fine = known.get('fine') or params.get('fine')  # the latter in adapters of before
        source = _through(options.through, record, source, net, sigma, fine if isinstance(fine, int) else 1)
    count = min(net.num_masks, known.get('max_masks') or net.num_masks)
    header = source.header(count)
    _say_differences(header, known)

    def make(image: RGB, key: str) -> Prior:
        source.must_fit(image, key)
        return source(image, key, count)

    described = {
        'source': source.name,
        'params': header.params,
        'weights': source.weights_sha256,
        'max_masks': count,
    }
    return MasksOf(make, described, source.digest)


def _say_differences(header: StoreHeader, known: Mapping[str, Any]) -> None:
    """Says in what masks differ from those of the training, of which the adapter says `known`."""
    here = dataclasses.replace(header, params=_without_places(header.params))
    trained = {key: value for key, value in known.items() if key in _OF_HEADER}
    if 'params' in trained:
        trained['params'] = _without_places(trained['params'])
    different = here.differences(dataclasses.replace(here, **trained))
    if different:
        said = '; '.join(different)
        print(f'sptsr: the adapter was trained with masks made otherwise (here != there: {said})', file=sys.stderr)


def _without_places(params: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in params.items() if key not in _PLACES}


def _of_store(path: str, images: Mapping[str, Path], known: Mapping[str, Any]) -> MasksOf:
    from sptsr.data.checked import must_hold
    from sptsr.images.decode import decode_rgb
    from sptsr.images.folder import image_key
    from sptsr.priors.store import PriorStore

    store = PriorStore(path)
    files = {image_key(name): file for name, file in images.items()}
    must_hold(store, files)
    _say_differences(store.header, known)

    def make(image: RGB, key: str) -> Prior:
        try:
            return store.get(key, image)
        except UserError:  # CMYK and YCbCr, of which `prior extract` makes RGB otherwise
            return store.get(key, decode_rgb(files[key].read_bytes(), key, to_rgb=True))

    return MasksOf(
        make,
        dataclasses.asdict(store.header),
        lambda key: hashlib.sha256(store.raw(key)[1]).hexdigest(),
    )


def _through(
    file: str | None, record: object, source: Source, net: SPTNet, sigma: float | str | None, fine: int
) -> Source:
    """Returns a source that looks at what the frozen network makes of an image.

    Args:
        file: option file of that network; None for the adapter's own backbone, where `record` says that it was that.
        record: what the adapter's store says of the network.
        source: makes the masks.
        net: the network with its units.
        sigma: noise level of 255, `auto`, or None.
        fine: of the adapter's store.
    """
    from sptsr.restoring.folder_run import estimated_sigma
    from sptsr.restoring.through import Frozen, Through

    frozen = Frozen.of_options(file) if file else Frozen.of_adapter(net, record)
    if frozen is None:
        raise UserError(
            'restore: this adapter was trained with masks of what another network made of the images; '
            'say --through X.yml with its option file, or --prior STORE'
        )
    known = record if isinstance(record, Mapping) else {}
    told = known.get('sigma')
    if isinstance(told, int | float) and known.get('weights_sha256') == frozen.record['weights_sha256']:
        # as `sptsr prior extract --through --sigma` told it for the masks of the training, whatever these images have
        return Through(source, frozen.told(told), lambda _key, _image: float(told), fine)
    if sigma is None:
        return Through(source, frozen, fine=fine)
    return Through(
        source, frozen, lambda _, image: estimated_sigma(image, 255) if sigma == 'auto' else float(sigma), fine
    )


def _chosen_source(
    options: argparse.Namespace, trained_with: Mapping[str, Any], said: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Returns name and arguments of the source that was named, else of the one that the adapter was trained with."""
    known = trained_with.get('prior') or {}
    name, params = known.get('source'), known.get('params')
    if options.source and options.source.rpartition(':')[2] != name:
        return options.source, dict(said)
    # A file of code is named by the user, never by an adapter.
    if not isinstance(name, str) or not isinstance(params, dict) or name in _NEED_FILES or ':' in name:
        if options.source:
            return options.source, _grid(options.source, known) | dict(said)
        why = f'it was trained with masks of {name}' if isinstance(name, str) else 'it does not say of which source'
        raise UserError(f'restore: this adapter uses masks, and {why}; say --source NAME, or --prior STORE')
    given = options.source or name  # or the file that registers it
    taken = _parameters(given)
    kept = {key: value for key, value in params.items() if key in taken and key != 'fine'}
    return given, kept | _grid(given, known) | dict(said)


def _grid(given: str, known: Mapping[str, Any]) -> dict[str, Any]:
    """Returns how fine masks of a source are to be, as its parameter, where it has one."""
    params = known.get('params') or {}
    if 'fine' not in _parameters(given) or 'through' in params:  # else the grid is that of the network's output
        return {}
    return {'fine': known.get('fine') or params.get('fine', 1)}


def _parameters(given: str) -> Mapping[str, Any]:
    from sptsr.core.registry import SOURCE_REGISTRY, import_named, lookup
    from sptsr.core.signatures import parameters

    return parameters(lookup(SOURCE_REGISTRY, import_named(given)[0]))
