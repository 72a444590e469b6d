"""What a stranger brings: one thing of each kind."""
