"""What stands before a driver, looks like one, and adds a proof: warm-up requests, golden requests."""
