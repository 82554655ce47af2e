"""What followed what: hashed tables, counted beforehand or as the text goes on."""
