"""Other programs that write the same text with the same models, on one machine and without a network."""
