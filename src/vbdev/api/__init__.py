"""What the control plane declares: parameters, methods, errors, results. All that a client needs.

`params` decodes what a call was given; `methods` is how methods are declared, a module's and our
own; `errors` says how a failure looks, `results` how answers do; `version` is whose methods they
are. Nothing here knows who answers.
"""
