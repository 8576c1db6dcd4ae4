"""One command a module; torch is loaded in their bodies, so that help and typing errors wait for
nothing.
"""
