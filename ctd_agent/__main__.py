"""`python -m ctd_agent` is `ctd-agent`."""

from ctd_agent.cli import main

if __name__ == "__main__":
    main()
