"""The commands, one module each subject: parse, call, print. Heavy imports wait inside the functions."""
