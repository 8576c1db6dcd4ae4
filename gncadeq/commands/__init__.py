"""One command a module, of its name, and examples of it for its help.

Torch is imported in the bodies of the commands, so that ``--help`` and errors in options are quick.
"""
