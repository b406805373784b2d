"""What methods there are, in the words of a schema and of help."""
