"""What a loss of one token optimises."""
