"""The scenarios for senders, and the verdicts on what they send in them."""
