"""A mutation run: single changes to the compiled core, registry and control, one after another.

`sites` finds what can be changed, `schemata` writes a source tree that holds many changes at once
and obeys an environment variable, `trial` runs tests against each, `__main__` is the command line.
"""
