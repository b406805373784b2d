"""What a daemon tells of itself: logs, what takes too long, how often it was interrupted."""
