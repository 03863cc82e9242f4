"""The two phases taken apart: a study runs the graph with one thing changed at a time, and is analysed."""
