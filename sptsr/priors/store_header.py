"""The header of a prior store: what made its masks, and whether two stores were made alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

import lmdb

from sptsr.core.errors import UserError, reason_of
from sptsr.core.files import parse_json
from sptsr.core.signatures import argument_problems, parameters
from sptsr.core.values import Range

SCHEMA = 3  # 2: without `fine`; 1, of 0.1: without `degradation` and `saw_image` either
_BLIND = ('labels', 'random')  # sources of 0.1 that did not look at the image
_KEY = b'header'


@dataclass(frozen=True)
class StoreHeader:
    """What made a store.

    Attributes:
        source: registered name of the source.
        params: all parameters of the source, resolved, JSON values; a tuple becomes a list, as a store holds it.
        weights_sha256: of the source's checkpoint; None when it has none.
        max_masks: at most this many masks an image, 1..64.
        versions: of the packages that decide the masks.
        schema: version of this format.
        saw_image: whether the source looked at the image that an entry belongs to. Labels, random regions and
            the oracle did not, so their masks do not depend on its noise.
        degradation: how the images were degraded (see `Degradation.record`); None when that is not known.
        fine: the masks lie on a grid so many times as fine as the images', 1..4.

    Raises:
        UserError: parameters that are no dict of JSON values.
    """

    source: str
    params: dict[str, Any]
    weights_sha256: str | None
    max_masks: int
    versions: dict[str, str] = field(default_factory=dict)
    schema: int = SCHEMA
    saw_image: bool = True
    degradation: dict[str, Any] | None = None
    fine: Annotated[int, Range(1, 4)] = 1

    def __post_init__(self) -> None:
        wrong = f'source {self.source}: its params must be a dict of JSON values'
        if not isinstance(self.params, dict):
            raise UserError(f'{wrong}, not a {type(self.params).__name__}; set self.params in __init__')
        try:
            object.__setattr__(self, 'params', json.loads(json.dumps(self.params, allow_nan=False)))
        except (TypeError, ValueError, RecursionError) as error:
            raise UserError(f'{wrong} ({reason_of(error)}); turn them into such') from error

    def differences(self, other: StoreHeader) -> list[str]:
        """Lists what makes masks differ, as `name: ours != theirs`; versions are not compared."""
        mine, theirs = vars(self), vars(other)
        found = []
        for key in ('source', 'weights_sha256', 'max_masks', 'fine'):
            if mine[key] != theirs[key]:
                found.append(f'{key}: {mine[key]} != {theirs[key]}')
        for key in sorted(mine['params'].keys() | theirs['params'].keys()):
            left, right = (_decisive(key, header['params'].get(key)) for header in (mine, theirs))
            if left != right and not (key == 'fine' and mine[key] != theirs[key]):  # said above
                found.append(f'{key}: {left} != {right}')
        # A store of 0.1, or of images that `prior degrade` did not make, may grow: the digests tell images apart.
        if None not in (self.degradation, other.degradation) and self.degradation != other.degradation:
            found.append(f'degradation: {self.degradation} != {other.degradation}')
        return found

    def must_agree(self, other: StoreHeader, path: object) -> None:
        """Raises UserError, naming the store at `path`, when its header (this one) is of another kind."""
        differences = other.differences(self)
        if differences:
            raise UserError(f'{path}: holds priors made otherwise ({"; ".join(differences)}); choose another store')


def _decisive(key: str, value: Any) -> Any:
    """Returns what of a parameter decides the masks: not from which option file a network was read."""
    if key == 'through' and isinstance(value, dict):
        return {name: item for name, item in value.items() if name != 'options'}
    return value


def write_header(transaction: lmdb.Transaction, database: Any, header: StoreHeader) -> None:
    """Puts a header into its database of an LMDB."""
    transaction.put(_KEY, json.dumps(vars(header)).encode(), db=database)


def read_header(begin: Callable[[], Any], path: str) -> StoreHeader:
    """Returns the header that a transaction on its database sees; raises UserError where there is none."""
    try:
        with begin() as transaction:
            record = parse_json(bytes(transaction.get(_KEY) or b''))
    except (lmdb.Error, ValueError) as error:
        raise UserError(f'{path}: not a prior store (it has no header); check the path') from error
    schema = record.get('schema') if isinstance(record, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        raise UserError(f'{path}: a store of schema {schema}, newer than {SCHEMA}; update sptsr')
    if isinstance(record, dict) and schema == 1:
        params = record.get('params')
        oracle = isinstance(params, dict) and params.get('oracle')
        record['saw_image'] = record.get('source') not in _BLIND and not oracle
    if not isinstance(record, dict) or argument_problems(parameters(StoreHeader), record, 'a header'):
        raise UserError(f'{path}: its header is damaged; extract the priors again')
    return StoreHeader(**record)
