"""`python -m bosal_client` is the command `bosal`."""

from bosal_client.cli import main

main()
