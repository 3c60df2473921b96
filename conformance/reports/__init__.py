"""What a run of the suite is written down as."""
