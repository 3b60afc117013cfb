"""Where builds keep what they made."""
