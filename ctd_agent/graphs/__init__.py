"""The two phases composed: the state machine, its log, and many documents."""
