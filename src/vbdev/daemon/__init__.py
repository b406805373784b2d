"""Composition: what makes a daemon of all that is below.

`app` puts it together; `config` reads a configuration file and `startup` carries it out;
`rehearsal` does without carrying anything out; `signals` says what signals mean.
"""
