"""One command a module.

Torch is imported in the bodies of the commands, so that ``--help`` and errors in options are quick.
"""
