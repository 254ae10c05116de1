"""What a loss optimises from tokens that a third policy, the behaviour, drew."""
