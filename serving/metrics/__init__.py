"""What the arms did."""
