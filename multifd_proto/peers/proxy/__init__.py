"""What stands between two peers: the proxy, its record, and its faults."""
