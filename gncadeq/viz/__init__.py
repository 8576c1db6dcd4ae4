"""Pictures, without a display; matplotlib loads when a figure is made (``gncadeq.viz.figures``)."""

from gncadeq.files.trajectories import load_trajectory, save_trajectory
from gncadeq.viz.colors import ColorScale, StateColors, paint
from gncadeq.viz.page import write_play
from gncadeq.viz.play import (
    digit_scene,
    grown_scene,
    life_scene,
    maze_scene,
    texture_scene,
    voronoi_scene,
)
from gncadeq.viz.recording import recording_scene, write_viewer
from gncadeq.viz.rendering import render_file
from gncadeq.viz.surface import (
    SurfaceRenderer,
    render_frames,
    render_gif,
    render_strip,
    render_surface,
)

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
    "recording_scene",
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
