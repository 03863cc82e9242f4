"""Students from a corpus: `students.train` makes any, of a plan. Nothing else knows the `train` extra."""
