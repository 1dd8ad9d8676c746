"""Documents about the world as a crawl of the web would hold them, one module per family."""
