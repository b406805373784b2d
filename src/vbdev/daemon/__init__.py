"""Composition: what makes a daemon of all that is below.

`app` puts it together; `config` reads a configuration file and `startup` carries it out;
`rehearsal` does without carrying anything out; `loading` finds modules of others; `signals` says
what signals mean, `stopping` is the orderly stop.
"""
