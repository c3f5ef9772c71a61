"""What a value must be, said by type hints."""

from typing import Annotated, Any, Literal

import pytest
from torch import Tensor

from sptsr.core.values import Range, choices, misfit, plain_types, range_of, shown

WIDTH = Annotated[int, Range(1, 64)]


@pytest.mark.parametrize(
    ('value', 'hint'),
    [
        (3, int), (3, float), (3, WIDTH), (64, WIDTH), (None, int | None), ([1, 2], list), ((1, 2), list[int]),
        ([], list[WIDTH]), ([0.5, 1], list[Annotated[float, Range(0, 1)]]), ('y', Literal['y'] | None), ({}, dict),
        ([1, 2], tuple[int, int]), ('auto', WIDTH | Literal['auto']), (object(), Any), ('x', int | Any),
    ],
)  # fmt: skip
def test_what_fits(value: object, hint: object):
    assert misfit(value, hint) is None


@pytest.mark.parametrize(
    ('value', 'hint', 'said'),
    [
        (True, int, 'must be a whole number, got true or false True'),
        (0, WIDTH, 'must be a whole number in 1..64, got 0'),
        (65, WIDTH | None, 'must be a whole number in 1..64 or empty (~), got 65'),
        (1.5, WIDTH, 'must be a whole number in 1..64, got a number 1.5'),
        (float('nan'), Annotated[float, Range(0, 1)], 'must be a number in 0..1, got nan'),
        ('fp8', Literal['fp32', 'bf16'], "must be bf16 or fp32, got 'fp8'"),
        (1, Literal['1'], 'must be 1, got a whole number 1'),
        ([1, 'a'], list[float], "must be a list (each a number), got [1, 'a']"),
        ([0.5], tuple[float, float], 'must be a list of 2, got [0.5]'),
        ([0.9], tuple[float | Tensor, float | Tensor], 'must be a list of 2, got [0.9]'),  # Adam's betas
        ([2, 0], list[WIDTH], 'must be a list (each a whole number in 1..64), got [2, 0]'),
        ('x' * 1000, int, f"must be a whole number, got text '{'x' * 59}..."),
        ('a\nb\x00', int, r"must be a whole number, got text 'a\nb\x00'"),
        ({}, str, 'must be text, got a section {}'),
    ],
)
def test_what_does_not_fit_is_said_in_words(value: object, hint: object, said: str):
    assert misfit(value, hint) == said


def test_hints_are_taken_apart():
    assert choices(Literal['a', 'b']) == ('a', 'b')
    assert choices(Literal['a'] | None) == ()
    assert range_of(WIDTH | None) == Range(1, 64)
    assert range_of(int) is None
    assert set(plain_types(WIDTH | Literal['auto'] | None)) == {int, str, type(None)}
    assert plain_types(int | Any) == ()
    assert len(shown(['x' * 100] * 1000)) < 70
