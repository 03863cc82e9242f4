"""Students from a corpus: `students.train` makes any, of a plan. The only home of the `train` extra."""
