"""What is allowed: events, the channel machine, the joint machine, rules and checker."""
