"""Pictures, without a display; matplotlib loads when a figure is made (``gncadeq.viz.figures``)."""

from gncadeq.files.trajectories import load_trajectory, save_trajectory
from gncadeq.viz.colors import ColorScale, StateColors, paint
from gncadeq.viz.play import (
    digit_scene,
    grown_scene,
    life_scene,
    maze_scene,
    texture_scene,
    voronoi_scene,
    write_play,
)
from gncadeq.viz.rendering import render_file
from gncadeq.viz.surface import (
    SurfaceRenderer,
    render_frames,
    render_gif,
    render_strip,
    render_surface,
)
from gncadeq.viz.viewer import write_viewer

__all__ = [
    "ColorScale",
    "StateColors",
    "SurfaceRenderer",
    "digit_scene",
    "grown_scene",
    "life_scene",
    "load_trajectory",
    "maze_scene",
    "paint",
    "render_file",
    "render_frames",
    "render_gif",
    "render_strip",
    "render_surface",
    "save_trajectory",
    "texture_scene",
    "voronoi_scene",
    "write_play",
    "write_viewer",
]
