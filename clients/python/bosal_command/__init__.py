"""Where the command `bosal` begins, before anything that takes long to import."""
