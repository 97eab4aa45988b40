"""What tests are made of: rows, warehouses, models and fakes. One noun a file."""
