"""Figures. Every function returns a matplotlib figure and its alt text; none of them shows or saves anything."""

from mlbook.pages.figures.style import (
    BLACK,
    BLUE,
    COLOURS,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    YELLOW,
    figure,
)

__all__ = ["BLACK", "BLUE", "COLOURS", "GREEN", "GREY", "ORANGE", "PURPLE", "RED", "SKY", "YELLOW", "figure"]
