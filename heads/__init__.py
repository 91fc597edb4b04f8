"""From cached features to scores."""
