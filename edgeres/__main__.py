"""`python -m edgeres`, which is how torchrun starts it."""

from edgeres.cli.main import main

if __name__ == "__main__":
    main()
