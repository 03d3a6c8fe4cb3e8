"""What a network costs, and what it would cost with fewer channels: parameters and MACs."""
