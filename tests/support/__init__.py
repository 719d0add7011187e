"""What the tests share: programs that start the product, stand-ins for services, and example data."""
