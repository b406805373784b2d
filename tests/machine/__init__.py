"""Random stacks under random I/O, against a plain model: model, disks, layers, rules, canaries."""
