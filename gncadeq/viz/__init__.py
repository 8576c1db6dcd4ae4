"""Pictures, without a display; matplotlib loads when a figure is made (``gncadeq.viz.figures``)."""

from gncadeq.viz.colors import StateColors, paint

__all__ = ["StateColors", "paint"]
