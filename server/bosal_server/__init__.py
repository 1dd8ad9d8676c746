"""The Bosal server: engine, service, metrics and command line."""
