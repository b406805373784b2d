"""What the control plane declares: parameters, methods, errors, results. All that a client needs.

`params` decodes what a call was given; `methods` is how a module declares methods; `errors` says
how a failure looks; `results` is what answers look like. Nothing here knows who answers.
"""
