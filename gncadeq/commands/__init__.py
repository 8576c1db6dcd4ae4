"""Commands of ``gncadeq`` that have a module of their own."""
