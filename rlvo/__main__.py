"""`python -m rlvo`: the command `rlvo` where no script of that name is on the path."""

from rlvo.cli.main import main

if __name__ == "__main__":
    main()
