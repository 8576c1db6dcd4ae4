"""Digits found in pictures: where they are, whatever their colours, size and light."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from gncadeq import PixelGraphClassifier
from gncadeq.transforms import FindDigits, stroke_width


def bar(height=120, width=200, box=(90, 20, 98, 90), paper=0.9, ink=0.1):
    """A picture with a dark bar, which is a one."""
    picture = torch.full((1, height, width), float(paper))
    left, top, right, bottom = box
    picture[:, top:bottom, left:right] = ink
    return picture


def ring(side=120, outer=40, inner=30, paper=1.0, ink=0.0):
    """A picture with a circle, which is a zero, and its box."""
    place = torch.arange(side) - side / 2 + 0.5
    distance = (place[:, None] ** 2 + place**2).sqrt()
    return torch.where((distance < outer) & (distance > inner), ink, paper)[None]


def only(found):
    (digit,) = found
    return digit


@pytest.mark.parametrize(("paper", "ink"), [(0.9, 0.1), (0.1, 0.9), (0.5, 0.4), (0.0, 1.0)])
def test_one_digit_whatever_its_grey_levels(paper, ink):
    digit = only(FindDigits()(bar(paper=paper, ink=ink)))
    assert digit.box == (90, 20, 98, 90)
    assert digit.dark is (ink < paper)
    assert digit.image.shape == (1, 28, 28)
    assert float(digit.image.max()) == pytest.approx(1.0, abs=0.02)
    assert float((digit.image > 0.02).any(2).sum()) == 20  # rows


def test_strokes_are_brought_towards_those_of_the_weights():
    for outer, inner in ((40, 38), (40, 33), (40, 27), (40, 20)):
        digit = only(FindDigits(stroke=2.4)(ring(outer=outer, inner=inner)))
        before = 20 * (outer - inner) / (2 * outer)
        assert abs(stroke_width(digit.image[0]) - 2.4) < 0.45 * abs(before - 2.4) + 0.05
        assert digit.stroke == pytest.approx((outer - inner) / (2 * outer), rel=0.2)


@pytest.mark.parametrize("factor", [1, 2, 5, 9])
def test_the_same_digit_at_any_size_and_place(factor):
    small = ring(40, 14, 10)
    reference = only(FindDigits()(ring(400, 140, 100))).image
    large = F.interpolate(small[None], scale_factor=factor, mode="bilinear")[0]
    placed = torch.ones(1, 40 * factor + 60, 40 * factor + 100)
    placed[:, 7 : 7 + 40 * factor, 61 : 61 + 40 * factor] = large
    digit = only(FindDigits()(placed))
    assert float((digit.image - reference).abs().mean()) < 0.03
    left, top, right, bottom = digit.box
    assert left == pytest.approx(61 + 6 * factor, abs=0.15 * factor + 1)
    assert bottom == pytest.approx(7 + 34 * factor, abs=0.15 * factor + 1)
    assert abs((right - left) - (bottom - top)) <= 1


def test_repeated_pixels_are_brought_back_to_their_own():
    small = (torch.rand(1, 9, 9) > 0.5).float() * torch.rand(1, 9, 9)
    padded = F.pad(small, (3, 3, 3, 3))
    repeated = padded.repeat_interleave(6, 1).repeat_interleave(6, 2)
    a, b = FindDigits()(padded), FindDigits()(repeated)
    assert len(a) == len(b)
    for one, two in zip(a, b, strict=True):
        assert torch.allclose(one.image, two.image, atol=1e-5)
        assert all(abs(6 * p - q) <= 6 for p, q in zip(one.box, two.box, strict=True))


def test_ink_of_another_colour_and_the_same_brightness():
    shape = bar(paper=0.0, ink=1.0)
    paper, ink = torch.tensor([0.8, 0.4, 0.5]), torch.tensor([0.3, 0.6, 0.5])
    picture = torch.lerp(paper[:, None, None], ink[:, None, None], shape)
    assert only(FindDigits()(picture)).box == (90, 20, 98, 90)


def test_uneven_light_and_noise():
    light = torch.linspace(0.35, 1.0, 200).expand(1, 120, 200)
    picture = light * bar(paper=1.0, ink=0.4)
    picture = (picture + 0.05 * torch.randn(picture.shape)).clamp(0, 1)
    box = only(FindDigits()(picture)).box
    assert all(abs(a - b) <= 3 for a, b in zip(box, (90, 20, 98, 90), strict=True))


def test_several_digits_in_reading_order_with_their_pieces():
    picture = torch.ones(1, 300, 400)
    boxes = [(40, 30, 60, 120), (200, 20, 220, 110), (330, 35, 345, 118), (60, 170, 80, 260)]
    for left, top, right, bottom in boxes:
        picture[:, top:bottom, left:right] = 0.0
    picture[:, 62:65, 40:60] = 1.0  # a broken stroke is still one digit
    picture[:, 290, 390] = 0.0  # a speck is none
    assert [digit.box for digit in FindDigits()(picture)] == boxes


@pytest.mark.parametrize(
    "picture",
    [torch.full((1, 40, 60), 0.3), torch.rand(1, 1, 1), torch.rand(3, 200, 200) * 0.2 + 0.4],
    ids=["blank", "one pixel", "noise"],
)
def test_a_picture_without_ink_is_refused(picture):
    with pytest.raises(ValueError, match="nothing stands out"):
        FindDigits()(picture)


def test_a_texture_is_refused():
    picture = torch.zeros(1, 200, 200)
    picture[:, ::6, ::6] = 1.0
    with pytest.raises(ValueError, match="at most 500 digits"):
        FindDigits()(picture)


@pytest.mark.parametrize("shape", [(1, 2, 300), (1, 300, 2), (1, 3, 3), (3, 5, 9)])
def test_odd_shapes_of_picture(shape):
    picture = torch.zeros(shape)
    picture[:, shape[1] // 2, shape[2] // 2] = 1.0
    assert only(FindDigits()(picture)).image.isfinite().all()


def test_arguments_and_cards():
    with pytest.raises(ValueError, match="'canvas' to be a whole number of at least 20"):
        FindDigits(size=20, canvas=10)
    with pytest.raises(ValueError, match="'stroke'"):
        FindDigits(stroke=float("nan"))
    with pytest.raises(ValueError, match="card states"):
        FindDigits.from_card({})
    find = FindDigits.from_card(PixelGraphClassifier.from_pretrained("digits").card)
    assert (find.size, find.canvas) == (8, 8)
    assert only(find(bar())).image.shape == (1, 8, 8)
