"""The wire contract `bosal.v1`: generated messages and stubs."""
