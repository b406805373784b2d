"""The methods of the control plane, one room for each subject.

`bdev_info` is what several of them tell of a bdev.
"""
