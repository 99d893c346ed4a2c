"""A result as people and programs read it: a table, CSV, one HTML file. Pure: from a document to text."""
