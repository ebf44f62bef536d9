"""Values that cross package and process borders. No behaviour beyond properties."""
