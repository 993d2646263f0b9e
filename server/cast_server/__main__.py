"""`python -m cast_server` is `cast-serve`."""

from cast_server.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
