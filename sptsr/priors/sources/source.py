"""The base class of prior sources."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from sptsr.core.errors import UserError
from sptsr.core.free_memory import must_fit
from sptsr.core.version import __version__
from sptsr.images.decode import RGB
from sptsr.masks.prior import Prior
from sptsr.priors.store_header import StoreHeader


def must_lie_in(source: str, ranges: Mapping[str, tuple[object, float, float]]) -> None:
    """Raises UserError for the first parameter of a source that is no number in its range.

    Args:
        source: its name.
        ranges: value, lowest and highest of each parameter, by name.
    """
    for name, (value, low, high) in ranges.items():
        if not isinstance(value, int | float) or not low <= value <= high:
            raise UserError(f'{source}: {name}={value} must be a number in {low:g}..{high:g}')


class Source(ABC):
    """Makes the prior of an image.

    A subclass takes its parameters by keyword in `__init__` (they are `--set k=v` on the
    command line, checked by signature) and registers itself in `SOURCE_REGISTRY`.

    Attributes:
        name: what users call it.
        params: what decides the masks, resolved: a dict of JSON values; no machine paths.
        weights_sha256: digest of the checkpoint; None when there is none.
        group: number of images to give to `several` at a time.
        fine: the masks lie on a grid so many times as fine as the image's (see `Prior.fine`).
        bytes_a_pixel: memory that it takes at once for each pixel of an image, about; 0 where that is not much.
        sees_image: whether the masks depend on the pixels of the image. If they do, they are valid only for that
            image with that noise, and the datasets refuse others.
    """

    name: ClassVar[str]
    params: dict[str, Any]
    weights_sha256: str | None = None
    group: int = 1
    bytes_a_pixel: int = 0
    sees_image: bool = True
    fine: int = 1

    @abstractmethod
    def __call__(self, image: RGB, key: str, max_masks: int) -> Prior:
        """Returns at most `max_masks` masks of uint8 RGB [H, W, 3], ordered by area, largest first.

        The pixels may not be written to: change a copy.

        Args:
            image: the LQ image.
            key: its key, for sources that look something up.
            max_masks: 1..64.

        Raises:
            UserError: what the source needs for this image is missing; names it.
        """

    def several(self, images: Sequence[RGB], keys: Sequence[str], max_masks: int) -> Iterator[Prior]:
        """Yields the priors of several images, in order; a source may share work between them."""
        for image, key in zip(images, keys, strict=True):
            yield self(image, key, max_masks)

    def check(self, keys: Sequence[str]) -> None:  # noqa: B027 (most have nothing to check)
        """Raises UserError when the source is certain to fail for one of these keys; called before any work."""

    def digest(self, key: str) -> str:
        """Returns a digest of what decides the masks of an image beside `params` and its pixels; '' for nothing."""
        return ''

    def must_fit(self, image: RGB, name: str) -> None:
        """Raises UserError when an image, called `name`, needs more memory than is free."""
        if not self.bytes_a_pixel:
            return
        height, width = image.shape[:2]
        what = f'{name}: {self.name} on {height}x{width} pixels (height x width)'
        must_fit(what, height * width * self.bytes_a_pixel, 'make the image smaller')

    def versions(self) -> dict[str, str]:
        """Returns the versions of packages that decide the masks."""
        return {}

    def header(self, max_masks: int) -> StoreHeader:
        """Returns the header of a store that this source fills; raises UserError where `params` are not JSON values."""
        versions = {'sptsr': __version__, **self.versions()}
        params: Any = getattr(self, 'params', None)  # a subclass may have forgotten it
        return StoreHeader(
            *(self.name, params, self.weights_sha256, max_masks, versions),
            saw_image=self.sees_image,
            fine=self.fine,
        )
