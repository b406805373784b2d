"""SPDK's own client against vbdev: what it declares, what it has to get, what it got."""
