"""What the tests share: programs that start the product, stand-ins for what it meets, and example data."""
