"""What a bdev's I/O is measured by, and limited to: histograms, rates, queue depth."""
