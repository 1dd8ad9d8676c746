"""Statistics of comparisons, online and paired; imports nothing of the server.

numpy, scipy and statsmodels do what they can; what they lack is written here and tested against
the figures of published implementations.
"""
