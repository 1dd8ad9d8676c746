"""`python -m bosal_command` is the command `bosal`."""

from bosal_command.main import main

main()
