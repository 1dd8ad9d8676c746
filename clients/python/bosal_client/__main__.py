"""`python -m bosal_client` is the command `bosal`."""

from bosal_command.main import main

main()
