"""Memory disks: the loops behind `malloc` and `null`."""
